"""Training and decoding on a simulated GPU: the CPU's numbers, no two devices mixed, and how often the host waits."""

import contextlib
from dataclasses import fields

import conftest
import pytest
import torch
from conftest import GOLDEN, TEXTS, VOCAB_SMALL, hypotheses
from fairseq import utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.modules import FairseqDropout
from support.generation import options
from support.pretraining import binarize, make_pretraining_task, random_documents
from support.simulated_gpu import CUDA, simulated_gpu

from bang.generation.session import TorchSession
from bang.inference.api import Bang
from bang.network import attention
from bang.plugin import loss
from bang.plugin.criterion import MixedLossConfig, NgramLanguageLossNarMixed
from bang.trained_modes import Blocks

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the tests marked gpu run on the real one")

DTYPES = {"float32": torch.float32, "float16": torch.float16}


@contextlib.contextmanager
def warm_gpu():
    """The simulated GPU; what a process sends once is there."""
    with simulated_gpu() as gpu:
        attention.bucket_tensor(32, 128, CUDA)
        yield gpu


def decode(task, model, batch, prefix=0, **generation):
    """The best hypothesis of each sentence; as many first tokens of the target are given as `prefix` says."""
    torch.manual_seed(3)  # the seed of what is drawn
    generator = task.build_generator([model], options(max_len_b=8, **generation))
    given = batch["target"][:, :prefix] if prefix else None
    return [found[0] for found in task.inference_step(generator, [model], batch, prefix_tokens=given)]


def assert_equal_texts(found, expected):
    assert [text["tokens"].tolist() for text in found] == [text["tokens"].tolist() for text in expected]
    for text, wanted in zip(found, expected):
        torch.testing.assert_close(text["positional_scores"].cpu(), wanted["positional_scores"], atol=1e-5, rtol=0)
        assert float(text["score"]) == pytest.approx(float(wanted["score"]), abs=1e-5)


SEARCHES = {
    "greedy": dict(beam=1),
    "beam": dict(beam=3, lenpen=1.2),
    "n-gram blocking": dict(beam=2, no_repeat_ngram_size=2, min_len=6),
    "sampling": dict(beam=2, sampling=True, sampling_topk=5),
    "prefix": dict(beam=2, prefix=2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("search", SEARCHES)
def test_beam_search_gives_the_cpus_texts(search, dtype, golden_model, make_task, pairs):
    batch, model = pairs("test", 6)[0], golden_model("mixed").to(DTYPES[dtype])
    expected = decode(make_task(), model, batch, **SEARCHES[search])
    with warm_gpu():
        found = decode(make_task(), model.cuda(), utils.move_to_cuda(batch), **SEARCHES[search])
        assert_equal_texts(found, expected)


LOOPS = {
    "nar": (dict(decoding="nar"), {}),
    "nar, long": (dict(decoding="nar"), dict(min_len=20, max_len_a=3)),
    "nar, link and rescore": (dict(decoding="nar", rescore=4), {}),
    "nar, link": (dict(decoding="nar"), dict(min_len=9, max_len_a=3)),
    "semi-nar, link": (dict(decoding="semi-nar", block_size=3, eos_penalty=0.5), {}),
    "semi-nar, link and prefix": (dict(decoding="semi-nar"), dict(prefix=2, unkpen=0.5)),
    "semi-nar": (dict(decoding="semi-nar", block_size=3, eos_penalty=0.5), {}),
    "semi-nar, prefix": (dict(decoding="semi-nar"), dict(prefix=2)),
    "semi-nar, threshold": (dict(decoding="semi-nar", commit_threshold=0.3), {}),
    "semi-nar, threshold 1": (dict(decoding="semi-nar", commit_threshold=1.0, draft_from_source=0.0), dict(prefix=2)),
    "speculative": (dict(decoding="speculative"), {}),
    "speculative, no source": (dict(decoding="speculative", draft_from_source=0.0), dict(unkpen=0.5)),
    "speculative, n-gram blocking": (dict(decoding="speculative"), dict(no_repeat_ngram_size=2, min_len=6)),
    "speculative, sampling among k": (dict(decoding="speculative"), dict(sampling=True, sampling_topk=5)),
    "speculative, sampling by mass": (dict(decoding="speculative"), dict(sampling=True, sampling_topp=0.7, temperature=0.9)),
    "speculative, prefix": (dict(decoding="speculative", draft_length=2), dict(prefix=2)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", LOOPS)
def test_the_loop_gives_the_cpus_texts_and_the_host_waits_once_a_pass(
    way, dtype, golden_model, make_task, pairs, link_file, monkeypatch
):
    (mode, generation), waits = LOOPS[way], []
    if "link" in way:
        mode = {**mode, "link": str(link_file)}

    def counted(run):
        def count(*arguments):
            before = gpu.waits.total()
            found = run(*arguments)
            waits.append(gpu.waits.total() - before)
            return found

        return count

    batch, model = pairs("test", 8)[0], golden_model("mixed").to(DTYPES[dtype])
    model.trained_blocks = Blocks(5, 5)  # so that a link looks ahead
    expected = decode(make_task(**mode), model, batch, **generation)
    for name in ("run", "likeliest"):
        monkeypatch.setattr(TorchSession, name, counted(getattr(TorchSession, name)))
    with warm_gpu() as gpu:
        model, batch = model.cuda(), utils.move_to_cuda(batch)
        gpu.waits.clear()
        found = decode(make_task(**mode), model, batch, **generation)
        assert_equal_texts(found, expected)
    assert waits and set(waits) == {1}, gpu.waits
    # a batch's own: its lengths, ids and prefix, fairseq's encoder asking for pads, rescoring's tokens there and scores back
    assert gpu.waits.total() - len(waits) <= 12, gpu.waits


def test_from_text_to_text():
    modes, checkpoint = ["ar", "semi-nar", "nar", "speculative"], GOLDEN / "mixed" / "checkpoint.pt"
    model = Bang.load(checkpoint, vocab=VOCAB_SMALL, device="cpu")
    expected = [model.generate(TEXTS[:4], mode, max_len=6) for mode in modes]
    with warm_gpu():
        model = Bang.load(checkpoint, vocab=VOCAB_SMALL)
        assert model.engine._device.type == "cuda"
        assert [model.generate(TEXTS[:4], mode, max_len=6) for mode in modes] == expected


def losses_and_gradients(criterion, model, batch):
    """Of one update: numbers and tensors of the CPU."""
    model.train()
    model.zero_grad()
    total, sample_size, log = criterion(model, batch)
    (total * 128 / sample_size).backward()  # fp16's scale
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return total, sample_size, log, gradients


def assert_equal_updates(found, expected, dtype):
    """Sums over other numbers of rows at a time, rounded otherwise."""
    tolerance = {"float32": 1e-5, "float16": 3e-3}[dtype]
    assert found[1] == expected[1] and found[2].keys() == expected[2].keys() and found[3].keys() == expected[3].keys()
    for key, value in expected[2].items():
        assert float(found[2][key]) == pytest.approx(float(value), rel=tolerance), key
    for name, gradient in expected[3].items():
        difference = (found[3][name].cpu().float() - gradient.float()).norm()
        assert difference <= tolerance * gradient.float().norm() + 1e-6, name


TRAININGS = {
    "ar": dict(),
    "ar, three streams": dict(ngram=3, stream_decay=0.5),
    "nar": dict(nar_ratio=1.0, sentence_avg=True),
    "semi-nar": dict(semi_nar_ratio=1.0, block_size=3, random_block_offset=True),
    "one mode drawn": dict(nar_ratio=0.4, semi_nar_ratio=0.3),
    "all modes": dict(nar_ratio=0.4, semi_nar_ratio=0.3, joint_modes=True, ngram=2),
    "own texts": dict(own_texts=1),
    "all modes, own texts": dict(nar_ratio=0.4, semi_nar_ratio=0.3, joint_modes=True, own_texts=3),
}


OF_FAIRSEQS_ENCODER = 2
"""How often fairseq's encoder asks, for a batch, whether there are pads."""


def compare_updates(criterion, model, batch, dtype, waits=OF_FAIRSEQS_ENCODER):
    """An update on the CPU and one on the GPU, in which the host waits at most so often (None: does not matter)."""
    for module in model.modules():
        if isinstance(module, FairseqDropout):
            module.p = 0.0
    model.to(DTYPES[dtype])
    expected = losses_and_gradients(criterion, model, batch)
    model.zero_grad()
    with warm_gpu() as gpu:
        model, batch = model.cuda(), utils.move_to_cuda(batch)
        found = losses_and_gradients(criterion, model, batch)
        assert_equal_updates(found, expected, dtype)
        gpu.waits.clear()  # what the first update has sent of its layouts is kept
        if waits is not None and dtype == "float32":
            criterion(model, batch)[0].backward()
            assert gpu.waits.total() <= waits, gpu.waits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRAININGS)
def test_an_update_is_the_cpus(name, dtype, golden_model, make_task, pairs):
    defaults = {f.name: f.default for f in fields(MixedLossConfig) if f.name != "_name"}
    given = {**defaults, "ngram": 1, "sentence_avg": False, "seed": 1, "label_smoothing": 0.1, **TRAININGS[name]}
    criterion, batch = NgramLanguageLossNarMixed(make_task(), **given), pairs("train", 4)[0]
    compare_updates(criterion, golden_model("mixed"), batch, dtype, None if given["own_texts"] else OF_FAIRSEQS_ENCODER)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_update_with_fairseqs_loss_is_the_cpus(dtype, golden_model, make_task, pairs):
    criterion = LabelSmoothedCrossEntropyCriterion(make_task(), sentence_avg=False, label_smoothing=0.1)
    compare_updates(criterion, golden_model("nar"), pairs("train", 4)[0], dtype, waits=None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["ar, three streams", "all modes"])
def test_an_update_of_pretraining_is_the_cpus(name, dtype, golden_model, tmp_path):
    binarize(tmp_path, random_documents(5, count=6))
    task = make_pretraining_task(tmp_path, tokens_per_sample=64)
    task.load_dataset("train")
    batch = task.dataset("train").collater([task.dataset("train")[index] for index in range(4)])
    defaults = {f.name: f.default for f in fields(MixedLossConfig) if f.name != "_name"}
    given = {**defaults, "sentence_avg": False, "seed": 1, "disable_ngram_loss": False, **TRAININGS[name]}
    compare_updates(NgramLanguageLossNarMixed(task, **given), golden_model("mixed"), batch, dtype)


def test_the_command_lines(train_here, cli, data_bin, tmp_path, monkeypatch):
    """fairseq-train, with validation, and fairseq-generate: the CPU's in float32; in fp16, which is for GPUs alone, nearly so."""
    monkeypatch.setattr(loss, "ROWS_ELSEWHERE", loss.ROWS["cpu"])  # sums in one order: Adam's first steps know signs alone

    def outcome(name, *device):
        options = ["--nar-ratio", "0.4", "--semi-nar-ratio", "0.3", "--joint-modes", "--max-update", "3", *device]
        train_here(*options, "--save-dir", tmp_path / name, validate=True)
        checkpoint = tmp_path / name / "checkpoint_last.pt"
        generate = ["--task", "translation_bang_nar", "--batch-size", "24", "--max-len-b", "8", *device]
        texts = hypotheses(cli("fairseq-generate", data_bin, "--path", checkpoint, *generate))
        return torch.load(checkpoint), texts

    state, texts = outcome("cpu", "--cpu")
    monkeypatch.setattr(conftest, "TRAINING", [option for option in conftest.TRAINING if option != "--cpu"])
    with warm_gpu():
        found, found_texts = outcome("gpu")
        half, half_texts = outcome("half", "--fp16")
    assert found["model"].keys() == state["model"].keys() == half["model"].keys()
    for name, weight in state["model"].items():
        torch.testing.assert_close(found["model"][name], weight, atol=1e-4, rtol=0)
        assert type(half["model"][name]) is torch.Tensor
    losses = [state["extra_state"]["val_loss"] for state in (state, found, half)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3) and losses[2] == pytest.approx(losses[0], abs=0.02)
    assert [text for _, text in found_texts.values()] == [text for _, text in texts.values()]
    assert half_texts.keys() == texts.keys() and half["optimizer_history"][-1]["num_updates"] == 3
    assert losses[0] < 10.3  # less than at the start, 10.5
