"""From text files to batches: no piece lost, no block missed, masks that nothing but seed and epoch moves."""

import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from conftest import VOCAB_SMALL
from fairseq import options, tasks
from fairseq.data import indexed_dataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import preprocess
from support.pretraining import EOS, binarize, make_pretraining_task, random_documents

from bang.plugin.pretraining.dataset import BREAK_MODES, SpanDataset, TextBlocks
from bang.plugin.pretraining.masking import SpanMasking, block_generator, hide_spans
from bang.plugin.pretraining.task import PretrainingTask, ordinary_pieces

PAD, MASK = 0, 103


def slow_blocks(documents, size, mode):
    """What the blocks must be, piece by piece: an independent reference."""
    lines = [(number, line) for number, document in enumerate(documents) for line in document]
    blocks, owner = [[]], None
    for document, line in lines:
        new_document = document != owner
        owner = document
        whole_lines = mode in ("complete", "complete_doc")
        if (
            mode == "eos"
            or (new_document and mode in ("doc", "complete_doc"))
            or (whole_lines and len(blocks[-1]) + min(len(line), size) > size)
        ):
            blocks.append([])
        for number, piece in enumerate(line):
            full = len(blocks[-1]) == size
            # the rest of an over-long line is a unit of its own, which goes on where it fits
            if full or (whole_lines and number and number % size == 0):
                blocks.append([])
            blocks[-1].append(piece)
    return [block for block in blocks if block]


@pytest.mark.parametrize("mode", BREAK_MODES)
@pytest.mark.parametrize("size", [1, 7, 16, 512])
def test_blocks_equal_the_slow_reference(tmp_path, mode, size):
    for seed in range(4):
        documents = random_documents(seed)
        prefix = binarize(tmp_path, documents, separators=[random.Random(seed).randint(1, 3) for _ in documents])
        blocks = TextBlocks(prefix, size, mode)
        found = [blocks[i].tolist() for i in range(len(blocks))]
        assert found == slow_blocks(documents, size, mode)
        assert blocks.sizes.tolist() == [len(block) for block in found]
        pieces = [piece for document in documents for line in document for piece in line]
        assert [piece for block in found for piece in block] == pieces, "no piece may be lost or moved"
        assert 0 < min(blocks.sizes) and max(blocks.sizes) <= size


@pytest.mark.parametrize("mode", BREAK_MODES)
def test_documents_of_every_kind(tmp_path, mode):
    long_line = list(range(1000, 1021))
    documents = [[], [[999]], [], [], [long_line], [[1001, EOS, 1002], [EOS]], [[1003]]]  # EOS: a literal [SEP]
    blocks = TextBlocks(binarize(tmp_path, documents), 8, mode)
    found = [blocks[i].tolist() for i in range(len(blocks))]
    assert found == slow_blocks(documents, 8, mode)
    if mode in ("doc", "complete_doc"):
        cut = [long_line[:8], long_line[8:16], long_line[16:]]
        assert found == [[999], *cut, [1001, EOS, 1002, EOS], [1003]]


def test_text_without_blank_lines_is_one_document(tmp_path):
    blocks = TextBlocks(binarize(tmp_path, [[[1000] * 5, [1001] * 5]], separators=[0]), 8, "doc")
    assert [blocks[i].tolist() for i in range(2)] == [[1000] * 5 + [1001] * 3, [1001] * 2]


def test_blocks_are_pickled_by_path(tmp_path):
    blocks = TextBlocks(binarize(tmp_path, random_documents(1)), 16, "doc")
    pickled = pickle.dumps(blocks)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert [again[i].tolist() for i in range(len(again))] == [blocks[i].tolist() for i in range(len(blocks))]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    binarize(folder, random_documents(5, count=60, most_lines=20))
    task = make_pretraining_task(folder)
    task.load_dataset("train")
    return task


def epoch_iterator(task, epoch=1, **kwargs):
    """A new one, as a new process would make it."""
    kwargs = {"max_tokens": 500, "required_batch_size_multiple": 8, "seed": 1, "max_positions": (512, 512), **kwargs}
    return task.get_batch_iterator(task.dataset("train"), epoch=epoch, disable_iterator_cache=True, **kwargs)


def samples_of(batch):
    """Takes a batch apart again, less its padding: {id: {name: list}}."""
    lengths = batch["net_input"]["src_lengths"].tolist()
    targets = (batch["target_idx"] >= 0).sum(1).tolist()
    rows = {}
    for row, id_ in enumerate(batch["id"].tolist()):
        rows[id_] = {"source": batch["net_input"]["src_tokens"][row, : lengths[row]].tolist()}
        for name in ("prev_output_tokens", "positions"):
            rows[id_][name] = batch["net_input"][name][row, : targets[row]].tolist()
        for name in ("target", "target_idx"):
            rows[id_][name] = batch[name][row, : targets[row]].tolist()
    return rows


def visit(iterator):
    """All samples of the iterator's next epoch by id, each seen once."""
    seen = {}
    for batch in iterator.next_epoch_itr():
        if batch:  # a rank that has run out of text gets an empty one
            rows = samples_of(batch)
            assert not seen.keys() & rows.keys(), "a block came twice"
            seen.update(rows)
    return seen


def end(iterator):
    """Undoes the iterator's reference to itself: torch waits 5 s for each worker that the garbage collector ends."""
    iterator.epoch_batch_sampler.ordered_batches = None


def visit_once(iterator):
    seen = visit(iterator)
    end(iterator)
    return seen


@pytest.fixture(scope="module")
def expected(task):
    """Epoch 1, block by block, without any batch: straight from the masking that has its own tests."""
    dataset = task.dataset("train")
    result = {}
    for i in range(len(dataset)):
        hidden = hide_spans(dataset.blocks[i], task.masking, block_generator(1, 1, i))
        result[i] = {name: array.tolist() for name, array in hidden._asdict().items()}
    return result


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_each_block_comes_once_and_the_same(task, expected, workers):
    assert visit_once(epoch_iterator(task, num_workers=workers)) == expected


def test_batches_do_not_change_a_block(task, expected):
    batched = {"max_tokens": None, "max_sentences": 3, "seed": 9, "required_batch_size_multiple": 1}
    assert visit_once(epoch_iterator(task, **batched)) == expected


def test_two_ranks_share_the_blocks(task, expected):
    ranks = [visit_once(epoch_iterator(task, num_shards=2, shard_id=rank, num_workers=1)) for rank in (0, 1)]
    assert not ranks[0].keys() & ranks[1].keys()
    assert {**ranks[0], **ranks[1]} == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_follow_the_epoch_even_in_workers_that_stay(task, expected, workers):
    iterator = epoch_iterator(task, num_workers=workers)
    first, second = visit(iterator), visit(iterator)
    end(iterator)
    assert first == expected and second.keys() == expected.keys()
    different = [second[i]["source"] != first[i]["source"] for i in first if len(first[i]["source"]) == 80]
    assert np.mean(different) > 0.9
    assert visit_once(epoch_iterator(task, epoch=2)) == second


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_epoch_goes_on_where_it_was_stopped(task, workers):
    """Also in a later epoch than the first, for which the stopped process had not made the batches anew."""
    stopped = epoch_iterator(task)
    visit(stopped)
    batches = stopped.next_epoch_itr()
    for _ in range(3):
        next(batches)
    state = stopped.state_dict()
    rest = [samples_of(batch) for batch in batches]

    resumed = epoch_iterator(task, epoch=state["epoch"], num_workers=workers)
    resumed.load_state_dict(state)
    assert [samples_of(batch) for batch in resumed.next_epoch_itr()] == rest and len(rest) > 3
    end(resumed)


def test_a_batch_is_padded_on_the_right():
    masking = SpanMasking(mask=MASK, eos=EOS, pieces=np.arange(1000, 1389))
    texts = [np.arange(1000, 1130), np.array([1000]), np.arange(1000, 1064)]

    class Blocks(list):
        sizes = np.array([len(text) for text in texts])

    dataset = SpanDataset(Blocks(texts), masking, PretrainingTask.load_dictionary(str(VOCAB_SMALL)), seed=3)
    batch = dataset.collater([dataset[i] for i in range(3)])
    assert batch["id"].tolist() == [0, 1, 2] and batch["nsentences"] == 3
    assert batch["ntokens"] == 18 + 1 + 9 == (batch["target_idx"] >= 0).sum()
    net_input = batch["net_input"]
    assert net_input["src_lengths"].tolist() == [130, 1, 64] and net_input["src_tokens"].shape == (3, 130)
    assert net_input["prev_output_tokens"][1].tolist() == [EOS] + [PAD] * 17
    assert net_input["positions"][1].tolist() == [1] + [PAD] * 17
    assert batch["target"][1].tolist() == [1000] + [PAD] * 17
    assert batch["target_idx"][1].tolist() == [0] + [-1] * 17
    assert (net_input["src_tokens"][1, 1:] == PAD).all()
    assert dataset.collater([]) == {}
    assert dataset.size(0) == (130, 130) and dataset.num_tokens(2) == 64


def test_what_does_not_fit_is_named_to_fairseq(task):
    indices = np.arange(len(task.dataset("train")))
    sizes = task.dataset("train").sizes
    kept, ignored = task.dataset("train").filter_indices_by_size(indices, (80, 79))
    assert ignored == np.flatnonzero(sizes == 80).tolist() and len(kept) + len(ignored) == len(sizes)


def test_random_pieces_are_ordinary_ones(tmp_path):
    special = ["[PAD]", "[unused0]", "[X_SEP]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ordinary = ["[", "]", "the", "##ing", "##["]
    pieces = [special[0], *special[1:3], *[f"[unused{i}]" for i in range(2, 99)], *special[3:], *ordinary]
    (tmp_path / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in pieces))
    dictionary = PretrainingTask.load_dictionary(str(tmp_path / "dict.txt"))
    assert [dictionary[i] for i in ordinary_pieces(dictionary)] == ordinary


def test_shards_take_turns(tmp_path):
    documents = [random_documents(seed, count=10, most_lines=5) for seed in (1, 2)]
    for number, text in enumerate(documents):
        binarize(tmp_path / f"shard{number}", text)
    binarize(tmp_path / "shard0", [[[1000]]], split="valid")
    task = make_pretraining_task(tmp_path / "shard0", tmp_path / "shard1")
    assert task.has_sharded_data("train")
    for epoch, shard in ((1, 0), (2, 1), (3, 0)):
        task.load_dataset("train", epoch=epoch)
        blocks = task.dataset("train").blocks
        assert [blocks[i].tolist() for i in range(len(blocks))] == slow_blocks(documents[shard], 80, "doc")
        task.load_dataset("valid", epoch=epoch)
        assert len(task.dataset("valid")) == 1


def test_combine_reads_the_parts_of_a_split(tmp_path):
    documents = [random_documents(seed, count=3) for seed in (1, 2, 3)]
    for name, text in zip(("train", "train1", "train2"), documents):
        binarize(tmp_path, text, split=name)
    task = make_pretraining_task(tmp_path)
    task.load_dataset("train", combine=True)
    blocks = task.dataset("train").blocks
    expected = [block for text in documents for block in slow_blocks(text, 80, "doc")]
    assert [blocks[i].tolist() for i in range(len(blocks))] == expected
    assert len(visit_once(epoch_iterator(task, num_workers=1))) == len(expected)


def test_from_a_text_file_through_the_command_line(tmp_path):
    """fairseq-preprocess, then the options of fairseq-train as fairseq itself reads them."""
    pieces = [line.split()[0] for line in VOCAB_SMALL.read_text().splitlines()][1100:1200]
    lines = [" ".join(pieces[i : i + 30]) for i in range(70)]
    (tmp_path / "text").write_text("\n".join(lines[:40] + ["", ""] + lines[40:]) + "\n")
    arguments = ["--only-source", "--task", "bang_pretraining", "--srcdict", str(VOCAB_SMALL), "--workers", "1"]
    arguments += ["--trainpref", str(tmp_path / "text"), "--destdir", str(tmp_path / "bin")]
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))

    parser = options.get_training_parser()
    arguments = [str(tmp_path / "bin"), "--task", "bang_pretraining", "--arch", "transformer_tiny", "--seed", "5"]
    args = options.parse_args_and_arch(parser, [*arguments, "--sample-break-mode", "doc", "--mask-length", "5"])
    task = tasks.setup_task(convert_namespace_to_omegaconf(args).task)
    task.load_dataset("train", combine=True, epoch=1)
    dataset = task.dataset("train")
    assert dataset.seed == 5 and task.cfg.mask_length == 5 and task.max_positions() == (512, 512)
    assert dataset.sizes.tolist() == [512, 512, 40 * 30 - 1024, 512, 30 * 30 - 512]
    assert task.dictionary.string(torch.from_numpy(dataset.blocks[3])).split() == " ".join(lines[40:]).split()[:512]
    assert len(dataset[0]["target"]) == 8 * 5


@pytest.mark.parametrize(
    "cfg, named",
    [
        ({"tokens_per_sample": 0}, "--tokens-per-sample 0"),
        ({"tokens_per_sample": 600}, "--max-source-positions 512"),
        ({"max_target_positions": 40}, "--max-target-positions 40"),
        ({"mask_length": 65}, "--mask-length 65"),
        ({"dataset_impl": "lazy"}, "--dataset-impl lazy"),
    ],
)
def test_a_mistake_in_an_option_is_named(tmp_path, cfg, named):
    binarize(tmp_path, [[[1000]]])
    with pytest.raises(ValueError, match=named) as error:
        make_pretraining_task(tmp_path, **cfg).load_dataset("train")
    assert "\n" not in str(error.value)


def remove_shard(shard):
    shutil.rmtree(shard)


def damage_dictionary(shard):
    with open(shard / "dict.txt", "a") as file:
        file.write("more 1\n")


def damage_text(shard):
    binarize(shard, [[], []])


def damage_format(shard):
    builder = indexed_dataset.make_builder(str(shard / "train.bin"), "lazy")
    builder.add_item(torch.tensor([1000, EOS]))
    builder.finalize(str(shard / "train.idx"))


@pytest.mark.parametrize(
    "damage, epoch, named",
    [
        (remove_shard, 1, r"second/train\.bin or \.idx is missing"),
        (damage_dictionary, 1, r"second/dict\.txt differs from .*first/dict\.txt"),
        (lambda shard: (shard / "dict.txt").unlink(), 1, r"second/dict\.txt is missing"),
        (damage_format, 1, "second/train was binarized with --dataset-impl cached"),
        (damage_text, 2, r"second/train\.bin holds no text"),
    ],
)
def test_a_bad_shard_is_named(tmp_path, damage, epoch, named):
    for shard in ("first", "second"):
        binarize(tmp_path / shard, [[[1000]]])
    damage(tmp_path / "second")
    task = make_pretraining_task(tmp_path / "first", tmp_path / "second")
    with pytest.raises(ValueError, match=named) as error:
        task.load_dataset("train", epoch=epoch)
    assert "\n" not in str(error.value)


def test_an_id_that_the_dictionary_lacks_is_named(tmp_path):
    binarize(tmp_path, [[[1000, 1389]]])
    task = make_pretraining_task(tmp_path)
    task.load_dataset("train")
    with pytest.raises(ValueError, match="id 1389, its dictionary 1389 entries"):
        task.dataset("train")[0]


def test_a_folder_without_dictionary_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"dict\.txt is missing"):
        make_pretraining_task(tmp_path)
