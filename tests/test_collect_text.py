"""research/collect_text.py: docstrings and manual pages become pairs and running text."""

import gzip
import importlib.util
import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "research" / "collect_text.py"


@pytest.fixture(scope="module")
def collect_text():
    spec = importlib.util.spec_from_file_location("collect_text", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BODY = (
    "The archive is opened again for each file, so that an archive with many files takes longer to be read than a small archive."
)
DOCSTRING = f"""Read the files of an archive.

{BODY}

Parameters
----------
name : str
    Where the archive lies, which nobody reads here.

Examples
--------
>>> read("a")
"""


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        (":class:`~pkg.mod.Thing` and ``x``, `y`_", "Thing and x, y"),
        ("See `the page <https://example.org>`__ and [this](that.md) [1]_", "See the page and this"),
        ("C{None} or *one* **two**", "None or one two"),
        ("a\n  b ::", "a b:"),
    ],
)
def test_marks_go(collect_text, marked, plain):
    assert collect_text.plain(marked) == plain


def test_sentences_end_behind_no_abbreviation(collect_text):
    assert collect_text.split_sentence("Take e.g. Python. Then go.") == ("Take e.g. Python.", "Then go.")


def test_docstring(collect_text):
    found = collect_text.from_docstring("pkg", "pkg.read", DOCSTRING)
    assert (found.source, found.target) == (BODY, "Read the files of an archive")


def test_google_sections_are_left_out(collect_text):
    arguments = "Args:\n    name: where it lies and is read from.\n"
    text = f"Read the files of an archive.\n\n{arguments}\n{BODY}\n\nReturns:\n    The files.\n"
    assert collect_text.prose(text) == ["Read the files of an archive.", BODY]


@pytest.mark.parametrize(
    "title",
    [
        "See the archive of files",
        "read(files) -> archive",
        "Archive",
        "Deprecated: read the archive",
        "Read archive_2 of the files",
    ],
)
def test_no_target(collect_text, title):
    found = collect_text.from_docstring("pkg", "pkg.read", f"{title}.\n\n{BODY}")
    assert found is None or not found.target


def test_target_that_the_source_does_not_say(collect_text):
    assert not collect_text.from_docstring("pkg", "pkg.read", f"Paint walls in a lovely colour.\n\n{BODY}").target


PAGE = """SORT(1)                     User Commands                     SORT(1)

N\bNA\bAM\bME\bE
       sort - sort lines of text files

D\bDE\bES\bSC\bCR\bRI\bIP\bPT\bTI\bIO\bON\bN
       Write the lines of all the files, as a sorted text, to the standard output.

       -b     ignore leading blanks

              and this is the text of an option
"""


def test_manual_page(collect_text):
    found = collect_text.from_manual("coreutils", "sort.1", PAGE)
    assert found.source == "Write the lines of all the files, as a sorted text, to the standard output."
    assert found.target == "sort lines of text files"


def test_licences(collect_text):
    licence = collect_text.licence_of
    assert licence([("License-Expression", "MIT")]) == "MIT"
    assert licence([("Classifier", "License :: OSI Approved :: BSD License")]) == "BSD License"
    assert (
        licence([("License", "Apache 2.0"), ("Classifier", "License :: OSI Approved :: GNU General Public License (GPL)")]) == ""
    )
    assert licence([("License", "ask us")]) == ""


SENTENCES = {
    "one": "The archive is opened again for each file, so that an archive with many files takes longer to be read.",
    "two": "A queue of jobs that wait for a worker is kept in order, and the oldest of the jobs is the one that a worker takes.",
    "three": "When the server closes the connection, the client waits for a second and then opens the connection to it again.",
}
DOCUMENT = "This is what a package is and does, and it is long enough to be a document of the running text that we have."
TITLES = {"one": "Read files from an archive", "two": "Keep jobs in a queue", "three": "Open a connection to the server"}


def package(folder, name, docstrings, licence="MIT"):
    info = folder / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\nLicense-Expression: {licence}\n\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
    (folder / name).mkdir()
    functions = (f'def f{i}():\n    """{title}.\n\n    {body}\n    """\n' for i, (title, body) in enumerate(docstrings))
    (folder / name / "__init__.py").write_text("raise SystemExit('imported')\n" + "".join(functions))


@pytest.fixture
def collected(collect_text, tmp_path, monkeypatch):
    """Three packages: requests (test), a training one that says the same in part, and one under another licence."""
    debian, site = tmp_path / "debian", tmp_path / "site"
    debian.mkdir()
    for part in ("valid", "test"):
        (debian / f"{part}.src").write_text(SENTENCES["three"] + "\n")
        (debian / f"{part}.tgt").write_text("nothing\n")
    with gzip.open(debian / "text.txt.gz", "wt") as file:
        file.write(f"{SENTENCES['three']}\n\n{DOCUMENT}\n")
    package(site, "requests", [(TITLES["one"], SENTENCES["one"])])
    package(site, "trained", [("Read some files of an archive", "Here: " + SENTENCES["one"]), (TITLES["two"], SENTENCES["two"]),
                              (TITLES["two"] + " of workers", SENTENCES["two"]),
                              (TITLES["three"], SENTENCES["three"])])  # fmt: skip
    package(site, "unfree", [(TITLES["two"], SENTENCES["two"])], "GPL-3.0-only")
    monkeypatch.setattr(collect_text.sysconfig, "get_path", lambda name: os.devnull)
    outs = [tmp_path / "a", tmp_path / "b"]
    tables = [collect_text.collect(debian, out, [site], None, Path("mandoc")) for out in outs]
    return outs, tables


def test_no_double_and_nothing_held_out_is_trained_on(collected):
    out = collected[0][0]
    assert (out / "docstrings" / "test.tgt").read_text() == TITLES["one"] + "\n"
    train = (out / "docstrings" / "train.src").read_text()
    assert train == SENTENCES["two"] + "\n"  # "one" is requests', "three" Debian's, "two" stands there twice
    text = (out / "text.train").read_text() + (out / "text.valid").read_text()
    assert SENTENCES["one"] not in text and SENTENCES["three"] not in text
    assert SENTENCES["two"] in text and DOCUMENT in text


def test_table_and_order_are_the_same_again(collected):
    outs, tables = collected
    assert tables[0] == tables[1]
    assert "| docstrings | trained | MIT | train | 1 |" in tables[0] and "unfree" not in tables[0]
    for path in sorted(p.relative_to(outs[0]) for p in outs[0].rglob("*") if p.is_file()):
        assert (outs[0] / path).read_bytes() == (outs[1] / path).read_bytes()


def test_parts_share_no_package(collect_text):
    for parts in collect_text.PARTS.values():
        names = [name for part in parts.values() for name in part.split()]
        assert len(names) == len(set(names))
