"""Speculative decoding gives greedy AR's tokens: real texts, batch sizes, draft lengths, worthless drafts."""

import sys

import pytest
from conftest import DEBIAN, GOLDEN, ROOT, VOCAB_SMALL

from bang import modes
from bang.text.vocabulary import read_vocabulary

sys.path.insert(0, str(ROOT / "benchmarks"))
import exactness  # noqa: E402


@pytest.fixture
def check(monkeypatch, capsys):
    """Runs the script: its status, and the rows of its table as lists of strings."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["exactness.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            exactness.main()
        return stop.value.code, [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]

    return call


@pytest.fixture
def golden(tmp_path):
    """Arguments for a golden checkpoint and a file of texts."""
    words = [piece for piece in read_vocabulary(VOCAB_SMALL) if piece.isalpha()]
    (tmp_path / "src").write_text("".join(" ".join(words[i : i + 3 + i]) + "\n" for i in range(9)))
    return [GOLDEN / "mixed" / "checkpoint.pt", tmp_path / "src", "--vocab", VOCAB_SMALL, "--max-len", 12]


def test_a_golden_checkpoint(check, golden):
    status, rows = check(*golden, "--batches", 4, 1, "--drafts", 1, 3)
    assert status == 0
    assert [row[:4] for row in rows] == [
        ["greedy AR", "4", "9", "0"],
        *([f"speculative, K = {k}", size, "9", "0"] for size in "41" for k in (1, 3)),
    ]
    assert rows[0][5] == "1.00" and float(rows[2][5]) > 1 and all(float(row[4]) < 1e-4 for row in rows)


def test_the_source_left_out_and_greedy_texts_written(check, golden, tmp_path):
    status, rows = check(*golden, "--batches", 9, "--drafts", 2, "--from-source", 0, 4, "--texts", tmp_path / "greedy")
    assert status == 0 and [row[0] for row in rows[1:]] == ["speculative, K = 2, G = 0", "speculative, K = 2, G = 4"]
    lines = (tmp_path / "greedy").read_text().splitlines()
    assert len(lines) == 9 and any(line.strip() for line in lines)


def test_other_words_are_noticed(check, golden, monkeypatch):
    unverified = modes.strategy("semi-nar")
    monkeypatch.setattr(modes, "strategy", lambda name, **options: unverified)
    status, rows = check(*golden, "--batches", 9, "--drafts", 3)
    assert status == 1 and int(rows[1][3]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("weights", [[], ["--random-weights"]], ids=["trained", "random"])
def test_the_shipped_model(weights, check):
    checkpoint, sources = ROOT / "models" / "debian-synopsis" / "checkpoint.pt", DEBIAN / "test.src"
    status, rows = check(checkpoint, sources, "--sentences", 12 if weights else 40, *weights)
    assert status == 0 and len(rows) == 1 + 3 * 6
