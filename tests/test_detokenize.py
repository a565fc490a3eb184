"""Word pieces back to text: what people write, and how much of real text is restored."""

import sys
from math import log

import pytest

from bang.text.detokenize import DASHES, detokenize
from bang.text.vocabulary import VOCAB
from bang.text.wordpieces import load_word_pieces
from conftest import ROOT
from make_dashes import dash_weights, words_and_blanks

TEXTS = """
node.js
c++
c#
(http)
don't
test::deep
it's the users' files, o'reilly said
c++11 library for c/c++ - documentation
foo() and crypt(3), see file(s) (and others)
"quoted text" and 'single quotes' and `code`
version 1.2.3 of 10,000 at 10:30
http://www.example.org/path
read .zip files in /etc and ~/.emacs
state-of-the-art, two- and three-dimensional, easy-to-use
e.g. this, a.k.a. that
wait... what?
the end. the beginning. nothing else.
100% of r&d: at&t
<html> tags
a -> b, a <= b
my_function __init__ of pkcs#11
of #[derive] and #![no_std]
mail someone@example.org
{a,b,c} [x] a, b and c; d!
shoot 'em up
東京 and 日本
""".strip().split("\n")


@pytest.mark.parametrize("text", TEXTS)
def test_restores(text):
    assert detokenize(load_word_pieces()(text)) == text


@pytest.mark.parametrize("pieces, text", [("", ""), ("   ", ""), ("-", "-"), (".", "."), ("'", "'"), ("##s a", "##s a")])
def test_ends_of_lines(pieces, text):
    assert detokenize(pieces) == text


def test_any_two_marks():
    """No context is too odd for a rule, and nothing but blanks is added or lost."""
    marks = [chr(code) for code in range(33, 127) if not chr(code).isalnum()] + ["“", "’", "…", "—", "word", "1"]
    for first in marks:
        for second in marks:
            for pieces in (f"{first} {second}", f"a {first} {second} b", f"{first} a {second}"):
                assert detokenize(pieces).replace(" ", "") == pieces.replace(" ", "")


@pytest.mark.parametrize("split, share", [("test", 0.97), ("valid", 0.97)])
def test_share_of_references(split, share):
    """docs/evaluation.md has the share of the full Debian pairs."""
    references = (ROOT / "examples" / "debian" / f"{split}.tgt").read_text(encoding="utf-8").lower().splitlines()
    word_pieces = load_word_pieces(VOCAB)
    restored = sum(detokenize(word_pieces(line)) == line for line in references)
    assert restored >= share * len(references)


def test_dashes_are_learned():
    assert words_and_blanks("A b - C-d") == (["a", "b", "-", "c", "-", "d"], [False, True, True, True, False, False])
    assert words_and_blanks("é") is None
    weights = dash_weights(["library - documentation"] * 9 + ["user-friendly", "a-priori"] * 2, size=4)
    assert set(weights) == {"library", "documentation", "a", "friendly"}  # of equals the first
    assert weights["library"] == (pytest.approx(log((9 + 1 / 3) / (2 / 3)) - log(1 / 2)), 0.0)
    assert weights["friendly"] == (0.0, pytest.approx(log((1 / 3) / (2 + 2 / 3)) - log(1 / 2)))


def test_table_is_what_the_script_prints():
    """On the examples' part of the training text the script learns much the same as on all of it."""
    lines = (ROOT / "examples" / "debian" / "train.tgt").read_text(encoding="utf-8").splitlines()
    learned = dash_weights(lines, size=40)
    shipped = {
        word: (float(before), float(after))
        for word, before, after in map(str.split, DASHES.read_text(encoding="utf-8").splitlines()[1:])
    }
    assert len(shipped) == 800
    for word in ("development", "documentation", "based", "level"):
        for ours, theirs in zip(learned.get(word, (0.0, 0.0)), shipped[word]):
            assert ours * theirs >= 0


def test_needs_no_more_than_the_standard_library(run):
    run(sys.executable, "-S", "-c", "import bang.text.cleanup, bang.text.detokenize", cwd=ROOT)
