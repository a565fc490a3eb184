"""The files of examples/ run as they stand, and what they print is right.

test_runtime.py, which has an export, runs ship_without_torch.py, test_hf.py hugging_face.py, test_ray.py ray_bulk.py.
"""

import io
import os
import re
import runpy
import subprocess
import sys

import pytest
from conftest import ROOT, copy_pairs, debian

from bang import Bang
from bang.modes import MODES

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHIPPED = "models/debian-synopsis/checkpoint.pt"
DESCRIPTIONS = debian("test.src")


@pytest.fixture(scope="module")
def shipped():
    return Bang.load(ROOT / SHIPPED, device="cpu")


@pytest.fixture
def example(shipped, monkeypatch, capsys):
    """Runs an example from the repository's root; returns what it printed. The shipped model is loaded once for all."""

    def load(path):
        assert path == SHIPPED
        return shipped

    def call(name):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(Bang, "load", load)
        capsys.readouterr()
        runpy.run_path(f"examples/{name}.py")
        return capsys.readouterr()

    return call


def test_they_are_short_and_each_answers_a_question():
    assert len(EXAMPLES) == 10
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 25, path.name
        assert "?" in text.split("\n")[0] and f"python examples/{path.name}" in text


def test_first_text(example):
    written = dict(line.split(maxsplit=1) for line in example("first_text").out.splitlines())
    assert list(written) == list(MODES)
    assert written["ar"] == "Perl module for reading and writing FITS images"
    assert len(set(written.values())) > 2  # modes differ


def test_many_lines(example, shipped, monkeypatch):
    lines = [*DESCRIPTIONS[:3], "word " * 600, DESCRIPTIONS[3]]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    printed = example("many_lines")
    expected = shipped.generate(DESCRIPTIONS[:4], mode="nar")
    assert printed.out.splitlines() == [*expected[:3], "", expected[3]] and all(expected)
    assert printed.err.startswith("line 4: text 4 has over 511 word pieces, the model's limit")


def test_speculative_decoding(example):
    """That no text differs it asserts itself."""
    printed = example("speculative_decoding").out
    passes = [int(number) for number in re.findall(r"(\d+) passes", printed)]
    assert len(passes) == 4 and passes == sorted(passes, reverse=True) and passes[-1] < 0.7 * passes[0]


def test_scores_and_passes(example):
    first, *pieces = example("scores_and_passes").out.splitlines()
    found = [re.fullmatch(r"pass (\d+) +(-\d+\.\d+)   (\S+)", line).groups() for line in pieces]
    assert [int(number) for number, _, _ in found] == [1 + index // 4 for index in range(len(found))] and len(found) > 8
    assert found[-1][2] == "[SEP]"
    mean = sum(float(score) for _, score, _ in found) / len(found)
    assert float(first.rpartition(" ")[2]) == pytest.approx(mean, abs=0.01)


def test_several_texts(example, shipped):
    lines = example("several_texts").out.splitlines()
    scores = [float(line.split()[0]) for line in lines[:3]]
    assert scores == sorted(scores, reverse=True) and len({line.split("   ")[1] for line in lines[:3]}) == 3
    assert lines[3].startswith("drawn: ") and lines[4].startswith("drawn: ") and lines[3] != lines[4]
    assert lines[5].startswith("begun: library for ")
    streamed = [line.removeprefix("so far: ") for line in lines[6:]]
    source = "This package contains a collection of Perl modules which read and write the headers of FITS images."
    assert len(streamed) > 1 and streamed[-1] == shipped.generate(source, "semi-nar", block_size=4)


def test_serve_from_asyncio(example, shipped):
    sources = ["A header-only dbus-binding leveraging C++-11.", "Fast estimators for survival analysis."]
    *texts, last = example("serve_from_asyncio").out.splitlines()
    assert texts[:2] == shipped.generate(sources, "nar")
    assert len(texts) > 2 and all(text.startswith("so far: ") for text in texts[2:])
    assert last == f"so far: {shipped.generate(sources[0], 'semi-nar', block_size=4)}"


@pytest.mark.slow
def test_finetune_from_pairs(tmp_path):
    pairs = copy_pairs(tmp_path / "pairs", 16)
    little = "--max-update 2 --num-workers 0 --no-epoch-checkpoints --no-save-optimizer-state".split()
    command = [sys.executable, "examples/finetune_from_pairs.py", pairs, tmp_path / "task", *little]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = float(re.search(r"^ROUGE-L .*?(\d+\.\d+)", done.stdout, flags=re.M)[1])
    assert scores > 25  # the shipped model's words, hardly changed
    assert (tmp_path / "task" / "checkpoints" / "checkpoint_best.pt").exists() and done.stdout.splitlines()[-1]
