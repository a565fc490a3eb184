"""The clean-up of NAR hypotheses, against the reference's outputs, and its command."""

import subprocess
import sys
from pathlib import Path

import pytest

from bang.text.cleanup import clean_up, to_text

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden"
PAIRS = [(GOLDEN / "postprocess" / "in.txt", GOLDEN / "postprocess" / "out.txt")] + [
    (path, path.with_name(path.name.replace("sorted", "dedup"))) for path in sorted(GOLDEN.glob("*/generate_*_nar.sorted.txt"))
]


def run(*arguments):
    command = [sys.executable, ROOT / "post_processed_nar.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def test_all_golden_files_are_there():
    assert len(PAIRS) == 5


@pytest.mark.parametrize("hypotheses, cleaned", PAIRS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_golden(hypotheses, cleaned, tmp_path):
    assert [clean_up(line) for line in lines(hypotheses)] == lines(cleaned)
    for options in ([], ["--published"]):
        result = run(hypotheses, tmp_path / "out", *options)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "out").read_bytes() == cleaned.read_bytes()


@pytest.mark.parametrize(
    "line, text",
    [
        ("", ""),
        ("[SEP]", ""),
        ("[CLS] [SEP] a", "a"),  # the first [SEP] follows nothing that is kept
        ("a [CLS] a b", "a b"),
        ("a [SEP] b [SEP] c", "a"),
        ("a [X_SEP] b", "a [X_SEP] b"),
        ("ha ##ha ha ##ha", "haha"),
        ("a b a b", "a b a b"),
        ("a ##b ab", "ab"),  # a word equal to the one before it once it is joined
    ],
)
def test_clean_up(line, text):
    assert clean_up(line) == text


def test_kept_repeats():
    assert clean_up("[SEP] c + + the the cat ##s ##s [SEP] x", keep_repeats=True) == "c + + the the catss"


@pytest.mark.parametrize(
    "line, text, text_with_repeats",
    [
        ("c + + lib ##rary library for the the test : : deep . . .", "c++ library for the test::deep...",
         "c++ library library for the the test::deep..."),
        ("perl ##s ##s , , and and [SEP] more", "perls, and", "perlss,, and and"),
        ("c + + + + + tools", "c++ tools", None),  # no mark without an end
        ("[CLS] [SEP] [SEP]", "", ""),
        ("", "", ""),
        ("a [X_SEP] b [MASK] [PAD] c [UNK]", "a b c [UNK]", "a b c [UNK]"),
        ("[X_SEP] [X_SEP]", "", ""),
    ],
)  # fmt: skip
def test_text_for_people(line, text, text_with_repeats):
    assert to_text(line) == text
    if text_with_repeats is not None:
        assert to_text(line, keep_repeats=True) == text_with_repeats


def test_command_for_people(tmp_path):
    hypotheses = tmp_path / "hypo"
    hypotheses.write_text("the the node . js ( http ) [SEP] x\n\ndon ' t\n")
    assert run(hypotheses, tmp_path / "out", "--detokenize").returncode == 0
    assert (tmp_path / "out").read_text() == "the node.js (http)\n\ndon't\n"
    assert run(hypotheses, tmp_path / "out", "--detokenize", "--keep-repeats").returncode == 0
    assert (tmp_path / "out").read_text() == "the the node.js (http)\n\ndon't\n"
    assert run(hypotheses, tmp_path / "out", "--keep-repeats").returncode == 0
    assert (tmp_path / "out").read_text() == "the the node . js ( http )\n\ndon ' t\n"
    refused = run(hypotheses, tmp_path / "out", "--published", "--keep-repeats")
    assert refused.returncode == 1 and "give one or the others" in refused.stderr


def test_one_line_out_for_each_line_in(tmp_path):
    hypotheses = tmp_path / "hypo"
    hypotheses.write_bytes("a\u2028b\n\n[SEP]\nc\x0cd\rd\ne e".encode())
    assert run(hypotheses, tmp_path / "out").returncode == 0
    assert (tmp_path / "out").read_bytes() == "a\u2028b\n\n\nc\x0cd\rd\ne\n".encode()


def test_starts_without_torch():
    code = "import sys, post_processed_nar; sys.exit('torch' in sys.modules or 'fairseq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "content, output, message",
    [
        (b"a\n", "hypo", "is the input"),
        (b"a\nb\xff\n", "out", "hypo, line 2: not UTF-8 (byte 0xff at byte 2"),
        (b"a\n", "missing/out", "its folder does not exist"),
        (None, "out", "hypo: no such file or directory"),
        (b"", "out", "hypo: empty: give a file with one hypothesis a line"),
    ],
)
def test_refusals_leave_nothing_behind(content, output, message, tmp_path):
    hypotheses = tmp_path / "hypo"
    if content is not None:
        hypotheses.write_bytes(content)
    result = run(hypotheses, tmp_path / output)
    assert result.returncode == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if content is None else {"hypo": content})
