"""Word pieces back to text: what people write, and how much of real text is restored."""

import gzip
import os
import sys
from pathlib import Path

import pytest
from conftest import DEBIAN, ROOT, debian
from make_blanks import examples, learn, words_and_blanks

from bang.text.detokenize import BLANKS, detokenize
from bang.text.vocabulary import VOCAB
from bang.text.wordpieces import load_word_pieces

sys.path.insert(0, str(ROOT / "benchmarks"))
from detokenization import docstrings, is_unseen, name_lines, spelled  # noqa: E402

TEXTS = r"""
i have one. it is red.
this is.
users' files
the users' files are here.
was -5
it was -5 degrees.
1 + 1 = 2
x = y + 1
2 * 3 = 6
jan. 3
on jan. 3 we met.
john.doe@x
john.doe@example.org
mail john.doe@example.co.uk today.
contact me at mary_ann@example.com.
2020 - about
e.g. i.e.
e.g. this
i.e. that
foo_bar(x)
call foo_bar(x) first.
we live in the u.s. now.
at 5 p.m. we left.
dr. smith is here.
mr. and mrs. jones
see fig. 2 and sec. 3.
don't do that, it's mine.
i'm sure they're ours.
he said "hello" to me.
she asked: "why?"
what is this? i do not know!
yes, i do. and you?
i like it. do you?
we went home. then it rained.
the cat sat on the mat. the dog did not.
a well-known state-of-the-art method
a self-driving car
on 2020-01-31
at 10:30 on monday
it costs $5.00 or 10%
10,000 people
version 1.2.3
pages 10-20
c++ and c#
node.js and jquery
foo.bar()
get_name() returns a name
__init__ and __name__
my_var = 5
http://www.example.org/path
see https://example.com/a/b for more.
read /etc/passwd and ~/.bashrc
and/or
either/or
tcp/ip
client/server
r&d at at&t
the year's best films
o'reilly books
(see below)
a list (of items) and more
one; two; three
first, second, and third
the answer: 42
wait... what?
[1, 2, 3]
a[0] and b[1]
x < y
if x > 0, stop.
a -> b
run ls -l
the option -v is set.
100% sure
#1 of 10
it's 5 o'clock.
two- and three-dimensional
the end.
hello, world!
is it you?
no. 5
vs. them
etc. and more
john's car isn't here.
the so-called "expert" left.
an e-mail to bob@example.com, please.
`code` and ``more code``
return the value of ``x``.
test::deep
perl module foo::bar
3.14 is pi.
i was born in 1990. you were not.
that is all. thanks.
node.js
c++
c#
(http)
don't
it's the users' files, o'reilly said
c++11 library for c/c++ - documentation
foo() and crypt(3), see file(s) (and others)
"quoted text" and 'single quotes' and `code`
version 1.2.3 of 10,000 at 10:30
read .zip files in /etc and ~/.emacs
state-of-the-art, two- and three-dimensional, easy-to-use
e.g. this, a.k.a. that
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


@pytest.mark.parametrize("split, share", [("test", 0.975), ("valid", 0.97)])
def test_share_of_references(split, share):
    """docs/evaluation.md has the share of the full Debian pairs."""
    references = (DEBIAN / f"{split}.tgt").read_text(encoding="utf-8").lower().splitlines()
    word_pieces = load_word_pieces(VOCAB)
    restored = sum(detokenize(word_pieces(line)) == line for line in references)
    assert restored >= share * len(references)


def test_share_of_docstrings(tmp_path):
    """First lines of the standard library's modules that the weights were not learned from, a tenth of docs/evaluation.md's."""
    folder = Path(os.__file__).parent
    for name in ("json", "email", "logging", "asyncio", "http", "unittest", "xml", "collections", "concurrent"):
        (tmp_path / name).symlink_to(folder / name)
    lines = spelled(line for name in sorted(os.listdir(tmp_path)) for line in docstrings(tmp_path / name))
    unseen = {line: pieces for line, pieces in lines.items() if is_unseen(line)}
    restored = sum(detokenize(pieces) == line for line, pieces in unseen.items())
    assert len(unseen) > 300 and restored >= 0.95 * len(unseen)


def test_lines_of_manual_pages(tmp_path):
    """The line under NAME, with and without the fonts and macros that pages have; other sections are not read."""
    (tmp_path / "man1").mkdir()
    with gzip.open(tmp_path / "man1" / "ls.1.gz", "wt") as file:
        file.write(".TH LS 1\n.SH NAME\nls \\- list \\fBdirectory\\fR contents\n.SH SYNOPSIS\n.B ls - x\n")
    (tmp_path / "man1" / "cat.1").write_text('.Sh NAME\n.Nm cat\n.Nd "copy"\n.Sh SYNOPSIS\n')
    (tmp_path / "man1" / "none.1").write_text(".SH SYNOPSIS\nnone - none\n")
    assert list(name_lines(tmp_path)) == [' cat - "copy"', "ls - list directory contents"]


NAMES = """
ls - list directory contents
abs, labs, llabs, imaxabs - compute the absolute value of an integer
apt-get - apt package handling utility -- command-line interface
tty - controlling terminal
thread-keyring - per-thread keyring
pthread_create - create a new thread
strerror_r, strerror_l - return string describing error number
git-add - add file contents to the index
""".strip().split("\n")


@pytest.mark.parametrize("text", NAMES)
def test_names_of_manual_pages(text):
    assert detokenize(load_word_pieces()(text)) == text


def test_blanks_are_learned():
    assert words_and_blanks("A b - C-d") == (["a", "b", "-", "c", "-", "d"], [False, True, True, True, False, False])
    assert words_and_blanks("é") is None and words_and_blanks("a - -b") is None
    lines = ["library - documentation"] * 9 + ["user-friendly"] * 9
    facts, answers, names = examples(lines)
    assert answers == [True, True] * 9 + [False, False] * 9
    weights = dict(zip(names, learn(facts, answers, len(names), passes=20, penalty=0.1)))
    assert weights["w library -"] > 0.2 and weights["w user -"] < -0.2
    assert weights["p W -"] == pytest.approx(0, abs=0.2)  # as often the one as the other
    strict = learn(facts, answers, len(names), passes=20, penalty=1000.0)
    assert not any(strict)


def test_table_is_what_the_script_prints():
    """On the examples' part of the training text the script learns much the same as on all of it."""
    lines = debian("train.tgt")[:1500]
    facts, answers, names = examples(lines)
    learned = dict(zip(names, learn(facts, answers, len(names), passes=4, penalty=0.3)))
    rows = [line.rpartition(" ") for line in BLANKS.read_text(encoding="utf-8").splitlines()[1:]]
    shipped = {fact: float(weight) for fact, _, weight in rows}
    both = [fact for fact in learned if abs(learned[fact]) > 0.5 and abs(shipped.get(fact, 0)) > 0.5]
    agreeing = sum(learned[fact] * shipped[fact] > 0 for fact in both)
    assert len(both) > 50 and agreeing >= 0.9 * len(both)


def test_needs_no_more_than_the_standard_library(run):
    run(sys.executable, "-S", "-c", "import bang.text.cleanup, bang.text.detokenize", cwd=ROOT)


@pytest.mark.parametrize(
    "pieces, source, text",
    [
        ("svg - framework for web", "An SVG-Framework, the svg-framework of the web", "svg-framework for web"),
        ("svg - framework for web", "SVG - framework for all", "svg - framework for web"),
        ("tcp / ip stack", "speaks TCP / IP", "tcp / ip stack"),
        ("tcp / ip stack", "speaks TCP/IP, not udp / ip", "tcp/ip stack"),
        ("pre - alignment of data", "pre- alignment", "pre-alignment of data"),  # broken at the end of a line
        ("a - b of c", "a-b, but elsewhere a - b", detokenize("a - b of c")),  # the source has both
    ],
)
def test_a_name_is_written_as_the_source_has_it(pieces, source, text):
    assert detokenize(pieces, source) == text
