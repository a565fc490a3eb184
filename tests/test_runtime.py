"""The runtime without torch, against the plugin: tokens, scores, texts, whatever the batch."""

import json
import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT, SPECIAL, TEXTS
from hypothesis import HealthCheck, given, settings, strategies
from support import memory
from support.interpreters import INTERPRETERS

from bang.inference import onnx_engine
from bang.inference.api import Bang
from bang.inference.onnx_session import Candidates, OnnxSession, columns
from bang.options import Options

MODES = {
    "ar": dict(mode="ar", beam=1),
    "ar, n-grams": dict(mode="ar", beam=1, no_repeat_ngram_size=2, min_len=5),
    "beam": dict(mode="ar", beam=4, len_penalty=1.2),
    "beam, n-grams": dict(mode="ar", beam=5, no_repeat_ngram_size=3, min_len=6, max_len=40),
    "beam, limits": dict(mode="ar", beam=3, max_len=2, max_len_a=0.2),
    "semi-nar": dict(mode="semi-nar", block_size=3),
    "the dial": dict(mode="semi-nar", block_size=4, commit_threshold=0.4),
    "the dial, without the source": dict(mode="semi-nar", block_size=4, commit_threshold=0.4, draft_from_source=0.0),
    "semi-nar, longer": dict(mode="semi-nar", block_size=3, eos_penalty=2.0),
    "semi-nar, limits": dict(mode="semi-nar", max_len=1, max_len_a=0.3),
    "nar": dict(mode="nar"),
    "nar, several pieces": dict(mode="nar", max_len=70, min_len=40),
    "nar, longer": dict(mode="nar", eos_penalty=1.5, max_len=24),
    "nar, shorter": dict(mode="nar", eos_penalty=-9, max_len=24),
    "nar, limits": dict(mode="nar", max_len=1, max_len_a=0.3),
    "speculative": dict(mode="speculative", draft_length=3),
    "speculative, source left out": dict(mode="speculative", draft_from_source=0),
    "speculative, n-grams": dict(mode="speculative", no_repeat_ngram_size=2, min_len=5),
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_the_runtime_gives_the_plugins_tokens_and_scores(options, plugin, runtime, sources):
    options = Options(**{"max_len": 30, **options})
    batch = sources[:20]
    expected, found = plugin.generate(batch, options), runtime.engine.generate(batch, options)
    for a, b in zip(expected, found, strict=True):
        assert b.tokens == a.tokens
        assert b.score == pytest.approx(a.score, abs=2e-5)
        assert b.positional_scores == pytest.approx(a.positional_scores, abs=1e-4)
        assert b.passes == a.passes


SEVERAL = {
    "beam": dict(beam=4, nbest=3, len_penalty=0.5),
    "n-grams": dict(beam=3, nbest=3, no_repeat_ngram_size=1),
    "greedy": dict(beam=1),
    "semi-nar": dict(mode="semi-nar", block_size=3),
    "the dial": dict(mode="semi-nar", block_size=4, commit_threshold=0.3),
    "speculative": dict(mode="speculative", draft_length=3),
    "draws": dict(sampling=True, nbest=3, seed=5),
    "draws of few": dict(sampling=True, sampling_topk=5, temperature=0.7),
    "draws of likely ones": dict(sampling=True, sampling_topp=0.6, no_repeat_ngram_size=1),
    "drafted draws": dict(mode="speculative", sampling=True, nbest=2, temperature=1.5),
}


def same(a, b):
    assert b.tokens == a.tokens and b.passes == a.passes
    assert b.score == pytest.approx(a.score, abs=2e-5)
    assert b.positional_scores == pytest.approx(a.positional_scores, abs=1e-4)


@pytest.mark.parametrize("options", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("given", [False, True], ids=["free", "prefix"])
def test_the_runtime_gives_the_plugins_several_texts(given, options, plugin, runtime, sources):
    """The best, those behind it, and draws; free, and from given beginnings of several lengths, one of none."""
    options, batch = Options(**{"max_len": 9, **options}), sources[:6]
    prefixes = [batch[(row + 1) % 6][:length] for row, length in enumerate((1, 0, 4, 2, 9, 3))] if given else None
    expected, found = plugin.generate(batch, options, prefixes), runtime.engine.generate(batch, options, prefixes)
    for row, (a, b) in enumerate(zip(expected, found, strict=True)):
        ranked = [b, *b.others]
        assert len(ranked) == len(a.others) + 1 == (1 if given and row == 4 and not options.sampling else options.nbest)
        assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
        for ours, theirs in zip([a, *a.others], ranked, strict=True):
            same(ours, theirs)
            assert np.isfinite(ours.positional_scores).all() and len(ours.passes) == len(ours.tokens) + 1
            if given:
                assert theirs.tokens[: len(prefixes[row])] == prefixes[row].tolist()
    for engine, together in ((plugin, expected), (runtime.engine, found)):  # each alone, and in another order
        row = 2
        alone = engine.generate([batch[row]], options, prefixes and [prefixes[row]])[0]
        turned = engine.generate(batch[::-1], options, prefixes and prefixes[::-1])[len(batch) - 1 - row]
        for other in (alone, turned):
            for ours, theirs in zip([together[row], *together[row].others], [other, *other.others], strict=True):
                same(ours, theirs)


@pytest.mark.parametrize("mode", ["ar", "semi-nar", "nar", "speculative"])
def test_the_runtime_streams_as_the_plugin(mode, plugin, runtime, sources):
    options = Options(mode=mode, beam=1, max_len=20, block_size=3)
    for source in sources[:3]:
        both = [list(engine.stream(source, options)) for engine in (plugin, runtime.engine)]
        for a, b in zip(*both, strict=True):
            same(a, b)
        for engine, streamed in zip((plugin, runtime.engine), both):
            same(streamed[-1], engine.generate([source], options)[0])
            assert [one.passes[-1] for one in streamed] == list(range(1, 1 + len(streamed)))


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_the_runtime_writes_the_plugins_texts(options, plugin, runtime):
    """From raw text, special pieces in it and all."""
    texts = ["", *TEXTS[:3], *SPECIAL, "[PAD]"]
    found = [model.generate(texts, **{"max_len": 30, **options}) for model in (Bang(plugin, runtime.pieces), runtime)]
    assert found[0] == found[1] and [text for text, ours in zip(texts, found[1]) if not ours] == ["", "[PAD]"]


@pytest.mark.parametrize(
    "mode, penalty", [("ar", 0), ("semi-nar", 0), ("nar", 0), ("speculative", 0), ("semi-nar", 2), ("nar", 2), ("nar", -9)]
)
@pytest.mark.parametrize("otherwise", [{"at_once": 24}, {"at_once": 1}, {"whole": False}], ids=str)
def test_what_only_saves_time_changes_no_token(mode, penalty, otherwise, exported, runtime, sources):
    options, engine = Options(mode=mode, beam=1, max_len=20, eos_penalty=penalty), Bang.load(exported, threads=1).engine
    engine._graphs = engine._graphs._replace(**otherwise)
    batch = sources[:20]
    for a, b in zip(runtime.engine.generate(batch, options), engine.generate(batch, options), strict=True):
        assert b.tokens == a.tokens and b.positional_scores == pytest.approx(a.positional_scores, abs=1e-4)


def test_a_text_does_not_depend_on_its_batch(runtime, sources):
    for mode in runtime.modes:
        options = Options(mode=mode, beam=2, max_len=20)
        alone = [runtime.engine.generate([source], options)[0].tokens for source in sources[:6]]
        assert [found.tokens for found in runtime.engine.generate(sources[:6], options)] == alone


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.data())
def test_any_batch_and_length(runtime, trained, data):
    rows = data.draw(strategies.integers(1, 64))
    longest = data.draw(strategies.integers(1, 512 if rows < 9 else 60))
    mode, beam = data.draw(strategies.sampled_from([*((mode, 1) for mode in runtime.modes), ("ar", 3)]))
    rng = np.random.default_rng(rows)
    eos = trained.dictionary.eos()
    lengths = [longest, *rng.integers(1, longest + 1, rows - 1)]
    batch = [np.append(rng.integers(200, len(runtime.pieces), length - 1), eos) for length in lengths]
    found = runtime.engine.generate(batch, Options(mode=mode, beam=beam, max_len=6))
    assert len(found) == rows
    assert all(len(one.tokens) <= 6 and np.isfinite(one.positional_scores).all() for one in found)


@pytest.mark.parametrize("mode, beam", [("nar", 1), ("semi-nar", 1), ("speculative", 1), ("ar", 1), ("ar", 2)])
@pytest.mark.parametrize("rows, longest", [(1, 1), (1, 512), (64, 1), (64, 512)])
def test_the_smallest_and_the_largest_batch(rows, longest, mode, beam, runtime, quantized, trained):
    batch = [np.append(np.arange(200, 199 + longest), trained.dictionary.eos())] * rows
    for model in (runtime, Bang.load(quantized[0], threads=1)):
        found = model.engine.generate(batch, Options(mode=mode, beam=beam, max_len=4))
        assert len(found) == rows and len({tuple(one.tokens) for one in found}) == 1


@pytest.mark.parametrize("mode", ["nar", "semi-nar"])
def test_the_longest_texts(mode, plugin, runtime, sources):
    options = Options(mode=mode, max_len=600, min_len=600, block_size=64)
    expected, found = plugin.generate(sources[:1], options), runtime.engine.generate(sources[:1], options)
    assert found[0].tokens == expected[0].tokens and len(found[0].tokens) == 511


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_rows_that_take_turns(options, runtime, sources, monkeypatch):
    """Where the log-probabilities of all rows would not fit."""
    sizes, options = [], Options(**{"max_len": 30, **options})
    expected = runtime.engine.generate(sources[:10], options)
    monkeypatch.setattr(onnx_engine, "_LOG_PROBS", 60 * runtime.engine.pieces)
    monkeypatch.setattr(
        onnx_engine, "OnnxSession", lambda graphs, rows, *of: sizes.append(len(rows)) or OnnxSession(graphs, rows, *of)
    )
    found = runtime.engine.generate(sources[:10], options)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    slots = {"nar": 30, "semi-nar": options.block_size, "speculative": 2 * options.draft_length, "ar": options.beam}[options.mode]
    assert sum(sizes) == 10 and max(sizes) * min(slots, 60) <= 60


def test_candidates_of_a_slot():
    found = Candidates(np.full((1, 1, 3), -1.0, np.float32), np.array([[[7, 2, 9]]]), np.array([[[-0.5, -1, -2]]], np.float32))
    tokens, log_probs = columns(found, (0, 1, 2))
    assert tokens.tolist() == [[[0, 1, 2, 7, 2, 9]]]
    assert log_probs.tolist() == [[[-1, -1, -1, -0.5, -np.inf, -2]]]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_threads_give_the_texts_of_one(precision, runtime, quantized):
    model = runtime if precision == "float32" else Bang.load(quantized[0], threads=1)
    calls = [(text, mode, beam) for mode, beam in (*((mode, 1) for mode in model.modes), ("ar", 3)) for text in TEXTS[:6]]

    def call(arguments):
        text, mode, beam = arguments
        return model.generate(text, mode, beam=beam, max_len=16)

    expected = list(map(call, calls))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, calls)) == expected


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "fairseq", "onnx", "transformers", "omegaconf"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocked())
from bang import Bang
model = Bang.load(sys.argv[1])
for mode in model.modes:
    print(mode, *model.generate(sys.argv[2:], mode, max_len=16), sep="\\t")
"""


def test_the_runtime_needs_neither_torch_nor_fairseq(exported, runtime):
    texts = TEXTS[:2]
    done = subprocess.run([sys.executable, "-c", WITHOUT, exported, *texts], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    expected = [[mode, *runtime.generate(texts, mode, max_len=16)] for mode in runtime.modes]
    assert [line.split("\t") for line in done.stdout.splitlines()] == expected


def test_the_example_that_ships_without_torch(exported, runtime, tmp_path):
    """It asserts itself that neither torch nor fairseq is loaded."""
    (tmp_path / "exported").symlink_to(exported)
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "ship_without_torch.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = runtime.generate("A header-only dbus-binding leveraging C++-11.", mode="nar")
    assert done.stdout == f"{expected}\n" and expected


ELSEWHERE = """
import os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "posix_ipc"):
    sys.modules[name] = None
for module, names in ((os, ("fork", "register_at_fork", "sched_getaffinity", "geteuid", "getuid", "killpg", "setsid", "mkfifo")),
                      (signal, ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "pthread_sigmask"))):
    for name in names:
        delattr(module, name)
from pathlib import Path
whole = Path.read_text
def read_text(path, *args, **options):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(path)
    return whole(path, *args, **options)
Path.read_text = read_text
from bang.__main__ import main
main(["generate", *sys.argv[1:]])
"""


def test_the_runtime_needs_nothing_of_linux_alone(exported, runtime):
    """Neither modules and functions that other systems lack nor /proc."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, exported, "--mode", "semi-nar", "--max-len", "8"],
        input="\n".join(TEXTS[:2]), cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == runtime.generate(TEXTS[:2], "semi-nar", max_len=8)


FIRST_TEXT = 1.5
"""Seconds from the start of the command to its first text."""


@pytest.mark.slow
@pytest.mark.parametrize("interpreter", INTERPRETERS.values(), ids=INTERPRETERS)
def test_an_environment_without_torch(interpreter, exported, runtime, tmp_path):
    """For each Python that is here of those that the package is declared for."""
    subprocess.run([interpreter, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["onnxruntime", "tokenizers", "numpy", "tqdm", "-c", ROOT / "requirements.txt"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode

    def generate(texts):
        """What the command writes, and its CPU time: the clock would count what else runs here."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [python, "-m", "bang", "generate", exported, "--mode", "nar", "--max-len", "16", "--threads", "1"],
            input="\n".join(texts), capture_output=True, text=True, cwd=ROOT, env={"PATH": "/usr/bin"},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert generate(TEXTS)[0] == runtime.generate(TEXTS, "nar", max_len=16)
    assert min(generate(TEXTS[:1])[1] for _ in range(3)) < FIRST_TEXT


def test_what_a_batch_takes_is_given_back(exported, sources):
    """A service's memory is not that of the largest batch that ever came."""
    model, options = Bang.load(exported, threads=1), Options(mode="nar", max_len=200)
    model.engine.generate(sources[:1], options)
    before = memory.taken()
    model.engine.generate(sources[:40], options)
    assert memory.taken() - before < 1


def test_a_beam_as_wide_as_the_vocabulary(runtime):
    """And n-grams to be left out, for which a search looks at more candidates still."""
    assert runtime.generate("a", beam=694, max_len=2, no_repeat_ngram_size=1)
    with pytest.raises(ValueError, match="beam=695: the vocabulary of 1389 pieces holds one of 694 at most"):
        runtime.generate("a", beam=695)


def test_an_export_knows_the_blocks_of_its_training(exported, tmp_path, caplog):
    """One of an earlier time does not, and says nothing."""
    folder = shutil.copytree(exported, tmp_path / "blocks")
    config = json.loads((folder / "config.json").read_text())
    for blocks, warnings in (([4, 4], ["--draft-length 5: this checkpoint was trained with blocks of 4 tokens"]), (None, [])):
        (folder / "config.json").write_text(json.dumps({**config, "blocks": blocks}))
        caplog.clear()
        Bang.load(folder, threads=1).generate("a text", "speculative", draft_length=5, max_len=3)
        told = [record.getMessage().split(", expect")[0] for record in caplog.records if record.levelname == "WARNING"]
        assert told == warnings


def test_a_gpu_that_cannot_be_used(exported, monkeypatch):
    """onnxruntime says that it can use one, as its build for GPUs does without CUDA's libraries, and computes on the CPU."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        with pytest.raises(
            ValueError, match="^device cuda:1: onnxruntime cannot use it and would compute on the CPU; install"
        ) as refusal:
            Bang.load(exported, device="cuda:1")
    assert "\n" not in str(refusal.value)


def test_a_cpu_by_number_is_a_cpu(exported, runtime):
    engine = Bang.load(exported, device="cpu:0").engine
    assert (engine._graphs.whole, engine._graphs.at_once) == (True, runtime.engine._graphs.at_once)
