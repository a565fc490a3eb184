"""Every sentence is visited once; bad data is refused."""

import logging
import shutil

import numpy as np
import pytest
import torch
from fairseq.data import data_utils
from omegaconf import OmegaConf

from bang.plugin.data import PairDataset
from bang.plugin.task import BangTranslationConfig, BangTranslationTask


def batches_of_fairseq_0_9(indices, sizes, max_tokens, max_sentences, multiple):
    """Batches as fairseq 0.9 made them, by plain loops."""
    batches, batch, lengths, longest = [], [], [], 0
    for index in indices:
        lengths.append(sizes[index])
        longest = max(longest, sizes[index])
        full = len(batch) == max_sentences
        full |= bool(max_tokens) and (len(batch) + 1) * longest > max_tokens
        if batch and full:
            keep = max(multiple * (len(batch) // multiple), len(batch) % multiple)
            batches.append(batch[:keep])
            batch, lengths = batch[keep:], lengths[keep:]
            longest = max(lengths)
        batch.append(index)
    return batches + ([batch] if batch else [])


def dataset(sizes, dictionary):
    tokens = [torch.full((size,), 200, dtype=torch.long) for size in sizes]
    return PairDataset(tokens, sizes, dictionary, tgt_dict=dictionary)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("limit", [(None, 1), (None, 7), (None, 13), (None, 36), (300, None), (300, 13)])
def test_batches_are_those_of_fairseq_0_9_and_hold_every_sentence(limit, multiple, dictionary):
    max_tokens, max_sentences = limit
    generator = np.random.default_rng(0)
    for size in (1, 2, 7, 8, 9, 24, 48, 71, 72, 100):
        sizes = generator.integers(1, 40, size)
        data = dataset(sizes, dictionary)
        indices = np.argsort(sizes, kind="stable")
        found = data.batch_by_size(indices, max_tokens, max_sentences, multiple)
        assert [list(batch) for batch in found] == batches_of_fairseq_0_9(indices, sizes, max_tokens, max_sentences, multiple)
        assert sorted(np.concatenate(found)) == list(range(size))


def test_buckets_of_lengths_pad_less(dictionary):
    generator = np.random.default_rng(3)
    source, target = generator.integers(5, 60, 400), generator.integers(2, 20, 400)
    make = [[torch.full((size,), 200, dtype=torch.long) for size in sizes] for sizes in (source, target)]

    def padded(bucket):
        """Tokens of sources and targets with their padding, in batches of 16."""
        data = PairDataset(make[0], source, dictionary, make[1], target, dictionary)
        data.length_bucket = bucket
        order = data.ordered_indices()
        assert sorted(order) == list(range(400))
        batches = np.split(order, 25)
        assert (np.diff(source[order] // bucket) >= 0).all()
        return sum(16 * source[batch].max() for batch in batches), sum(16 * target[batch].max() for batch in batches)

    (source_before, target_before), (source_after, target_after) = padded(1), padded(16)
    assert target_after < 0.75 * target_before and source_before < source_after < 1.35 * source_before


def test_fairseq_still_loses_sentences():
    """The defect that is mended; when this fails the mending can go."""
    lost = data_utils.batch_by_size(np.arange(48), lambda i: 5, np.full(48, 5), None, 7, 8)
    assert sum(map(len, lost)) == 42


def test_an_empty_dataset_has_no_batches(dictionary):
    assert dataset(np.array([], dtype=int), dictionary).batch_by_size(np.array([], dtype=int), None, 4) == []


@pytest.mark.parametrize("shards,workers", [(1, 0), (1, 2), (3, 0)])
def test_an_epoch_visits_each_sentence_once(shards, workers, make_task, dictionary):
    data = dataset(np.random.default_rng(1).integers(2, 30, 77), dictionary)
    seen = []
    for shard in range(shards):
        iterator = make_task().get_batch_iterator(
            data, max_sentences=7, required_batch_size_multiple=8, seed=1, num_shards=shards, shard_id=shard,
            num_workers=workers,
        )  # fmt: skip
        for batch in iterator.next_epoch_itr(shuffle=True):
            seen += batch["id"].tolist() if batch else []
    assert sorted(seen) == list(range(77))


def test_ids_of_another_dictionary_are_refused(dictionary):
    tokens = [torch.tensor([200, len(dictionary), 102])]
    data = PairDataset(tokens, [3], dictionary, tgt_dict=dictionary)
    with pytest.raises(ValueError, match="source of sentence 0 has id 1389.*another dictionary"):
        data[0]


def test_sentences_over_a_limit_are_an_error_not_a_loss(make_task, dictionary, caplog):
    task = make_task()
    data = dataset(np.array([3, 600, 4]), dictionary)
    with pytest.raises(ValueError, match="1 of 3 sentences .* the first is sentence 1 .*--truncate-source"):
        task.filter_indices_by_size(np.arange(3), data, (512, 512), ignore_invalid_inputs=True)
    task.cfg.skip_invalid_size_inputs_valid_test = True
    assert task.filter_indices_by_size(np.arange(3), data, (512, 512)).tolist() == [0, 2]
    assert "1 of 3 sentences" in caplog.text and "left out" in caplog.text


@pytest.mark.skipif(np.__version__.startswith("1."), reason="fairseq's buckets run with numpy 1")
def test_buckets_that_numpy_2_cannot_make_are_told_in_one_line(make_task):
    with pytest.raises(
        ValueError, match=r"^--num-batch-buckets 4: fairseq's buckets do not run with numpy 2 .*: --length-bucket [^\n]*$"
    ):
        make_task(num_batch_buckets=4).load_dataset("train")


def test_interactive_sentences_are_truncated_like_files(make_task):
    task = make_task(truncate_source=True, max_source_positions=6)
    tokens = [torch.tensor([200, 201, 202, 203, 204, 205, 206, 102]), torch.tensor([200, 102])]
    data = task.build_dataset_for_inference(tokens, [8, 2])
    assert data[0]["source"].tolist() == [200, 201, 202, 203, 204, 102] and data[1]["source"].tolist() == [200, 102]
    assert data.sizes.tolist() == [6, 2]


@pytest.fixture(scope="module")
def parts(data_bin, tmp_path_factory):
    """The golden pairs, with the test pairs as a second part of `train` (48 + 24) and `valid` (12 + 24)."""
    folder = shutil.copytree(data_bin, tmp_path_factory.mktemp("parts") / "bin")
    for path in data_bin.glob("test.*"):
        for split in ("train1", "valid1"):
            shutil.copy(path, folder / path.name.replace("test", split))
    return folder


@pytest.fixture
def parts_task(parts, make_task):
    def make(**options):
        task = make_task(data=str(parts), source_lang="src", target_lang="tgt", **options)
        task.cfg.dataset_impl, task.cfg.train_subset, task.cfg.required_seq_len_multiple = None, "train", 1
        return task

    return make


@pytest.mark.parametrize("options, times", [({}, 1), (dict(upsample_primary=-1), 1), (dict(upsample_primary=3), 3)])
def test_a_split_in_parts_is_read_whole(options, times, parts_task):
    """One part after the other, the first as often as asked; -1 is what checkpoints of fairseq 0.12 hold."""
    task = parts_task(truncate_source=True, **options)
    found = {}
    for split in ("train", "train1"):
        task.load_dataset(split)
        data = task.dataset(split)
        found[split] = [(data[index], tuple(data.size(index))) for index in range(len(data))]
    task.load_dataset("train", combine=True)
    whole, expected = task.dataset("train"), found["train"] * times + found["train1"]
    assert len(whole) == len(expected) == 48 * times + 24 and len(whole.ordered_indices()) == len(expected)
    for index, (pair, size) in enumerate(expected):
        assert all(torch.equal(whole[index][side], pair[side]) for side in ("source", "target"))
        assert tuple(whole.size(index)) == size


def test_training_on_parts(parts, train_here, caplog):
    """As fairseq 0.9: train and train1 by themselves, valid and valid1 by --combine-valid-subsets."""
    caplog.set_level(logging.INFO)
    folder = train_here("--max-epoch", "1", "--combine-valid-subsets", validate=True, data=parts)
    state = torch.load(folder / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 5  # of 72 pairs, 16 each
    assert "valid1 src-tgt 24 examples" in caplog.text and "valid on 'valid' subset" in caplog.text


def test_parts_whose_sides_differ_are_named(parts, parts_task, tmp_path):
    folder = shutil.copytree(parts, tmp_path / "bin")
    for end in ("bin", "idx"):
        shutil.copy(folder / f"valid.src-tgt.src.{end}", folder / f"train1.src-tgt.src.{end}")
    task = parts_task()
    task.cfg.data = str(folder)
    with pytest.raises(ValueError, match="split train1: 12 source and 24 target lines; binarize"):
        task.load_dataset("train", combine=True)


def test_folders_with_different_dictionaries(data_bin, tmp_path):
    """fairseq reads the first folder's dictionaries, and every folder's ids."""
    other = shutil.copytree(data_bin, tmp_path / "other")
    cfg = BangTranslationConfig(data=f"{data_bin}:{other}", source_lang="src", target_lang="tgt")
    cfg.checkpoint_paths = None
    assert BangTranslationTask.setup_task(cfg).source_dictionary.symbols
    lines = (other / "dict.tgt.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (other / "dict.tgt.txt").write_text("".join([*lines[:300], lines[301], lines[300], *lines[302:]]), encoding="utf-8")
    with pytest.raises(ValueError, match="other/dict.tgt.txt differs from .*bin/dict.tgt.txt: binarize all folders") as refusal:
        BangTranslationTask.setup_task(cfg)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("varies", [False, True], ids=["", "--update-ordered-indices-seed"])
def test_a_resumed_run_has_the_batches_of_one_that_never_stopped(varies, make_task, dictionary):
    """Which of equally long sentences share a batch is drawn in the first epoch alone; the batches come in each epoch's order."""

    def iterator(epoch):
        task = make_task()
        data = dataset(np.array([7, 9] * 20), dictionary)
        options = dict(max_sentences=8, seed=1 + epoch * varies, epoch=epoch)
        run = OmegaConf.create({"criterion": {}, "task": task.cfg, "dataset": {
            "num_shards": 1, "train_subset": "train", "gen_subset": "test", "update_ordered_indices_seed": varies,
        }})  # fmt: skip
        task.cfg = run.task
        return task.get_batch_iterator(data, **options)

    whole, resumed = iterator(1), iterator(3)
    for _ in range(2):
        whole.next_epoch_itr()
        list(whole._cur_epoch_itr)
    for made in (whole, resumed):
        assert made.next_epoch_idx == 3
    assert [list(batch) for batch in whole.frozen_batches] == [list(batch) for batch in resumed.frozen_batches]
    assert [batch["id"].tolist() for batch in whole.next_epoch_itr()] == [
        batch["id"].tolist() for batch in resumed.next_epoch_itr()
    ]


@pytest.mark.parametrize("file, spoil, message", [
    ("src.idx", lambda data: data[:-8], "src.idx: damaged or truncated"),
    ("src.idx", lambda data: bytes(len(data)), "src.idx: damaged or truncated"),
    ("tgt.idx", lambda data: data[:26] + b"\xff" + data[27:], "tgt.idx: damaged or truncated"),
    ("tgt.bin", lambda data: data[:-2], "bytes, and its index is of"),
    ("src.bin", lambda data: bytes(len(data)), "source of sentence 0 is damaged"),
    ("tgt.bin", lambda data: bytes(len(data)), "target of sentence 0 is damaged"),
    ("tgt.bin", lambda data: b"\xff" * len(data), "of sentence 0 "),
])  # fmt: skip
def test_damaged_data_gets_one_line(file, spoil, message, data_bin, tmp_path, make_task):
    folder = shutil.copytree(data_bin, tmp_path / "bin")
    path = folder / f"test.src-tgt.{file}"
    path.write_bytes(spoil(path.read_bytes()))
    task = make_task(data=str(folder), source_lang="src", target_lang="tgt")
    task.cfg.dataset_impl, task.cfg.train_subset, task.cfg.required_seq_len_multiple = None, "train", 1
    with pytest.raises(ValueError, match=message) as error:
        task.load_dataset("test")
        task.dataset("test")[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1]", "beam 4", "3", "[" * 100_000])
def test_eval_bleu_args_that_are_no_object(text, make_task):
    task = make_task(eval_bleu_args=text)
    with pytest.raises(ValueError, match="^--eval-bleu-args .*: give a JSON object, as"):
        task.build_model(None)
