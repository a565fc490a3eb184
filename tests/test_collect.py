"""The command that puts a log's hypotheses in the order of the input."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden"


def run(log, output, *options):
    command = [sys.executable, "-m", "bang", "collect", log, output, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture
def collect(tmp_path):
    """Runs the command on the text of a log."""

    def collect_text(text: str, *options):
        (tmp_path / "log").write_bytes(text.encode())
        result = run(tmp_path / "log", tmp_path / "hypo", *options)
        hypotheses = tmp_path / "hypo"
        return result, hypotheses.read_bytes().decode() if hypotheses.exists() else None

    return collect_text


LOG = """2024-01-01 | INFO | fairseq_cli.generate | {'_name': None}
S-2\tsource two
T-2\ttarget two
H-2\t-0.25\tbest two
D-2\t-0.25\tbest two
P-2\t-0.1 -0.2
H-2\t-0.5\tsecond two
S-0\tsource zero
H-0\t-inf\t
S-3\tskipped
| Generate test with beam=4: BLEU4 = 1.0
"""


def test_order_nbest_empty_and_missing(collect):
    result, text = collect(LOG)
    assert result.returncode == 0
    assert text == "\n\nbest two\n\n"
    assert result.stderr == "4 sentences, 2 of them without a hypothesis\n"


@pytest.mark.parametrize("counted_by", ["--total", "--source"])
def test_trailing_sentences_are_kept(collect, counted_by, tmp_path):
    (tmp_path / "src").write_bytes("a\rb\nb\u2028\n\nd\ne\nf".encode())
    result, text = collect(LOG, counted_by, "6" if counted_by == "--total" else tmp_path / "src")
    assert text == "\n\nbest two\n\n\n\n"
    assert "6 sentences, 4 of them" in result.stderr


def test_filled_from_the_references(collect, tmp_path):
    (tmp_path / "ref").write_text("".join(f"reference {number}\n" for number in range(5)))
    result, text = collect(LOG, "--total", "5", "--fill", tmp_path / "ref")
    assert text == "reference 0\nreference 1\nbest two\nreference 3\nreference 4\n"
    assert result.stderr == f"5 sentences, 4 of them without a hypothesis, filled from {tmp_path / 'ref'}\n"
    result, _ = collect(LOG, "--total", "6", "--fill", tmp_path / "ref")
    assert result.returncode == 1 and "ref has 5 lines for 6 sentences: give one for each" in result.stderr


def test_the_hypothesis_closest_to_the_reference(collect, tmp_path):
    log = "S-0\tx\nH-0\t-0.1\ta library\nH-0\t-0.3\ta small c library\nH-0\t-0.4\ta small c ##c library\n"
    log += "S-1\ty\nH-1\t-0.1\tone\nH-1\t-0.2\ttwo\nS-2\tz\n"
    (tmp_path / "ref").write_text("small c library for tests\nnothing alike\nthe third\n")
    assert collect(log, "--closest-to", tmp_path / "ref")[1] == "a small c library\none\n\n"
    result, text = collect(log, "--closest-to", tmp_path / "ref", "--fill", tmp_path / "ref")
    assert text == "a small c library\none\nthe third\n" and " 1 of them" in result.stderr
    result, _ = collect(log, "--closest-to", tmp_path / "ref", "--total", "4")
    assert result.returncode == 1 and "ref has 3 lines for 4 sentences: give one for each" in result.stderr


def test_sources_that_have_a_text(collect, tmp_path):
    """What is filled stays, what is neither written nor filled is left out of both files; no reference, nothing to be near to."""
    (tmp_path / "src").write_text("".join(f"source {number}\n" for number in range(5)))
    (tmp_path / "ref").write_text("reference 0\n\n\n\nreference 4\n")
    options = ["--source", tmp_path / "src", "--fill", tmp_path / "ref", "--closest-to", tmp_path / "ref"]
    result, text = collect(LOG, *options, "--pairs", tmp_path / "pairs")
    assert text == "reference 0\nbest two\nreference 4\n"
    assert (tmp_path / "pairs").read_text() == "source 0\nsource 2\nsource 4\n"
    assert result.stderr == f"5 sentences, 4 of them without a hypothesis, filled from {tmp_path / 'ref'}; 2 left out\n"
    assert "give it too" in collect(LOG, "--pairs", tmp_path / "pairs")[0].stderr
    assert "choose another file" in collect(LOG, *options, "--pairs", tmp_path / "hypo")[0].stderr
    assert "is the input" in collect(LOG, *options, "--pairs", tmp_path / "src")[0].stderr


@pytest.mark.parametrize("name", ["mixed/generate_test_ar_beam1.txt", "nar/generate_train_nar.txt"])
def test_golden_logs(name, tmp_path):
    log = GOLDEN / name
    source = GOLDEN / "data" / f"tokenized_{name.split('_')[1]}.src"
    result = run(log, tmp_path / "hypo", "--source", source)
    assert result.returncode == 0 and " 0 of them" in result.stderr
    # grep ^H log | cut -c 3- | sort -n | cut -f3-
    found = [line[2:].split("\t", 2) for line in log.read_text().split("\n") if line.startswith("H-")]
    expected = [text for _, _, text in sorted(found, key=lambda fields: int(fields[0]))]
    assert (tmp_path / "hypo").read_text() == "".join(f"{text}\n" for text in expected)


def test_records_behind_a_progress_bar_and_odd_characters(collect):
    log = "S-0\tx\nH-0\t-1\ta\u2028b\n\r 50%|##   | 1/2 [00:01<00:01]S-1\ty\n\rbar\rH-1\t-1\tc H-7 d\n"
    assert collect(log)[1] == "a\u2028b\nc H-7 d\n"


@pytest.mark.parametrize(
    "log, options, message",
    [
        (LOG + LOG, [], "log, line 13: source S-2 for the second time: keep one run"),
        ("S-0\tx\n", [], "log: no hypothesis"),
        ("", [], "log: no hypothesis"),
        (LOG, ["--total", "3"], "log: sentence 3 (ids start at 0), but --total says 3"),
        (LOG, ["--source", "no-such-file"], "no-such-file"),
    ],
)
def test_refusals(collect, log, options, message, tmp_path):
    result, text = collect(log, *options)
    assert (result.returncode, text) == (1, None)
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_input_is_never_overwritten(tmp_path):
    log = tmp_path / "log"
    log.write_text(LOG)
    source = tmp_path / "src"
    source.write_text("a\n" * 4)
    assert "is the input" in run(log, log).stderr
    assert "is the input" in run(log, source, "--source", source).stderr
    assert (log.read_text(), source.read_text()) == (LOG, "a\n" * 4)
