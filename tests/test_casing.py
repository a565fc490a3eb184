"""Capitals of texts: from their sources, from a table of the training targets, and nothing but case changes."""

import io
import json
import re
import runpy

import pytest
from conftest import GOLDEN, ROOT, VOCAB_SMALL, debian
from hypothesis import given, settings
from hypothesis import strategies as st

from bang import Bang
from bang.__main__ import main
from bang.errors import UserError
from bang.text.casing import CASING_FILE, Casing
from bang.text.evaluate import evaluate

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"
TARGETS = ["GNU R package for XML", "Django module for UPnP media", "a UPnP renderer", "library for XML and UPnP media"] * 3


@pytest.fixture(scope="module")
def table():
    return Casing.count(TARGETS)


@pytest.mark.parametrize("text, source, expected", [
    ("a compiler of xsl stylesheets", "It compiles XSL. Stylesheets are read.", "a compiler of XSL stylesheets"),
    ("a tool of dbus", "The D-Bus tools.", "a tool of dbus"),  # the source has D and Bus, and no such word
    ("a d-bus tool", "The D-Bus tools.", "a D-Bus tool"),
    ("a tool for iphone", "Talks to an iPhone, any iPhone.", "a tool for iPhone"),
    ("a upnp media renderer", "", "a UPnP media renderer"),  # the table's forms
    ("gnu r package", "", "GNU R package"),
    ("a Thing of [UNK]", "thing [unk]", "a Thing of [UNK]"),  # capitals that are there stay
    ("", "Source", ""),
    ("« 東京 »", "東京 Tokyo", "« 東京 »"),
])  # fmt: skip
def test_forms_of_the_source_and_of_the_targets(text, source, expected, table):
    assert table.restore(text, source) == expected


def test_texts_begin_as_the_targets_do():
    upper, lower = (Casing.count([f"{begin} one", f"{begin} two"] * 20) for begin in ("The", "the"))
    assert (upper.restore("the three"), lower.restore("the three")) == ("The three", "the three")
    assert (upper.restore("unknown word"), lower.restore("unknown word")) == ("Unknown word", "unknown word")


def test_a_table_is_readable_and_comes_back(table, tmp_path):
    table.save(tmp_path / "casing.tsv")
    written = (tmp_path / "casing.tsv").read_text(encoding="utf-8").splitlines()
    assert "UPnP\t9\t0" in written and "GNU\t0\t3" in written
    again = Casing.load(tmp_path / "casing.tsv")
    assert (again.inside, again.first, again.pairs) == (table.inside, table.first, table.pairs)


def test_a_table_has_the_forms_of_sources(tmp_path):
    """Names that the targets lack; a table without sources, as earlier ones are, is read too."""
    targets = debian("train.tgt")[:2000]
    sources = ["Written with ZzLib by all.", "It needs ZzLib, which is here."] * 20
    table, plain = Casing.count(targets, sources), Casing.count(targets)
    assert table.restore("a library for zzlib").endswith(" ZzLib") and plain.restore("a library for zzlib").endswith(" zzlib")
    for number, made in enumerate((table, plain)):
        made.save(tmp_path / str(number))
        again = Casing.load(tmp_path / str(number))
        assert (again.inside, again.first, again.pairs, again.prose) == (made.inside, made.first, made.pairs, made.prose)
    written = (tmp_path / "0").read_text(encoding="utf-8").splitlines()
    assert "ZzLib\t40" in written
    earlier = [
        "# cased forms of training targets: form, times inside a text, times at its beginning; before, form, after, times",
        "UPnP\t9\t0", "a\tUPnP\t\t2",
    ]  # fmt: skip
    (tmp_path / "earlier").write_text("\n".join(earlier) + "\n", encoding="utf-8")
    table = Casing.load(tmp_path / "earlier")
    assert table.inside == {"upnp": {"UPnP": 9}} and table.pairs == {("a", "upnp", ""): {"UPnP": 2}} and not table.prose


def test_words_that_a_short_form_stands_for():
    table = Casing.load(ROOT / "models" / "debian-synopsis" / CASING_FILE)
    assert table.restore("quality assessment tools for data", "The QAT suite.").startswith("Quality Assessment Tools")
    assert "assessment" in table.restore("quality assessment tools for data", "The QAX suite.")


@pytest.mark.parametrize("content, problem", [
    ("UPnP\t9\t0\n", "line 1"), ("HEADER\nUPnP\n", "line 2"), ("HEADER\nUPnP\t-9\t0\n", "line 2"),
    ("HEADER\nUPnP\t" + "9" * 400 + "\t0\n", "line 2"),
    ("HEADER\na\tUPnP\t\tmany\n", "line 2"),
    ("HEADER\na\tUPnP\t\t1\tx\n", "line 2"), ("\x00", "line 1"),
])  # fmt: skip
def test_what_is_no_table(content, problem, table, tmp_path):
    table.save(tmp_path / "good")
    header = (tmp_path / "good").read_text(encoding="utf-8").splitlines()[0]
    (tmp_path / "bad").write_text(content.replace("HEADER", header), encoding="utf-8")
    with pytest.raises(UserError, match=f"bad, {problem}: no table of cased forms"):
        Casing.load(tmp_path / "bad")
    with pytest.raises(FileNotFoundError, match="bang casing"):
        Casing.load(tmp_path / "none")


TEXT = st.text() | st.text("aAσςΣßẞıİiIǆǅK .'-", max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, max_size=4), TEXT, TEXT)
def test_nothing_but_case_changes(targets, text, source):
    """Whatever the letters: a sigma at a word's end, a dotless i, letters whose capital is two."""
    table = Casing.count([*targets, text, text], [source, *targets], least=1)
    for given_text in (text, text.lower(), source.lower()):
        assert table.restore(given_text, source).lower() == given_text.lower()


def test_rouge_stays(table):
    references, sources = debian("test.tgt")[:40], debian("test.src")
    texts = [reference.lower() for reference in references[1:] + references[:1]]
    restored = [table.restore(text, source) for text, source in zip(texts, sources)]
    assert restored != texts
    scores = evaluate({"lower": texts, "restored": restored}, references, ["rouge"])["systems"]
    assert scores["lower"] == scores["restored"]


def test_unseen_references_get_their_capitals_back():
    """The examples' own, with a table of their 6,000 training targets; as lower case 72 % of the words are right."""
    table = Casing.count(debian("train.tgt"), debian("train.src"))
    pairs = list(zip(debian("test.src"), debian("test.tgt")))
    restored = [(table.restore(target.lower(), source).split(), target.split()) for source, target in pairs]
    words = [found == wanted for texts in restored for found, wanted in zip(*texts)]
    assert sum(words) / len(words) > 0.86


@pytest.fixture(scope="module")
def command_table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("casing")
    (folder / "targets").write_text("\n".join(debian("train.tgt")[:2000]) + "\n", encoding="utf-8")
    main(["casing", str(folder / "targets"), "--out", str(folder / CASING_FILE)])
    return folder / CASING_FILE


@pytest.fixture
def generate_command(monkeypatch, capsys):
    def call(texts, *arguments):
        stdin = io.TextIOWrapper(io.BytesIO("".join(f"{text}\n" for text in texts).encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        capsys.readouterr()
        main(["generate", *map(str, arguments)])
        return capsys.readouterr().out.splitlines()

    return call


def test_the_api_writes_capitals_where_there_is_a_table(command_table):
    text = debian("test.src")[0]
    plain = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL)
    lower = plain.generate(text, "nar")
    assert lower == lower.lower() == plain.generate(text, "nar", case="lower")
    cased = plain.generate(text, "nar", case="source")  # no table: the source alone
    assert cased.lower() == lower
    model = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, casing=command_table)
    restored = Casing.load(command_table).restore(lower, text)
    assert model.generate(text, "nar") == restored == model.generate(text, "nar", case="source") != lower
    assert model.generate(text, "nar", case="lower") == lower
    assert model.generate(text, "nar", details=True).pieces == plain.generate(text, "nar", details=True).pieces
    with pytest.raises(UserError, match="case='upper': give lower or source"):
        model.generate(text, "nar", case="upper")


def test_pack_makes_the_table_and_folders_keep_it(command_table, tmp_path, generate_command):
    """`bang pack --targets`; then a folder, which `bang export` hands on, writes as a checkpoint with a table beside it."""
    targets, folder = command_table.with_name("targets"), tmp_path / "model"
    main(["pack", str(CHECKPOINT), str(folder), "--vocab", str(VOCAB_SMALL), "--targets", str(targets)])
    assert (folder / CASING_FILE).read_bytes() == command_table.read_bytes()
    assert CASING_FILE in json.loads((folder / "config.json").read_text())["files"]
    assert "capitals | the source's and the training targets'" in (folder / "README.md").read_text(encoding="utf-8")
    beside = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, casing=command_table)
    texts = debian("test.src")[:2]
    found = generate_command(texts, folder, "--mode", "nar")
    assert found == beside.generate(texts, "nar") and found != [text.lower() for text in found]
    assert generate_command(texts, folder, "--mode", "nar", "--case", "lower") == [text.lower() for text in found]
    assert generate_command(texts, folder, "--mode", "nar", "--casing", "none") == [text.lower() for text in found]
    (folder / CASING_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {CASING_FILE}"):
        Bang.load(folder)


def test_a_runtime_folder_writes_capitals(command_table, runtime, exported):
    text = debian("test.src")[0]
    lower = runtime.generate(text, "nar")
    model = Bang.load(exported, casing=command_table, threads=1)
    assert model.generate(text, "nar") == Casing.load(command_table).restore(lower, text) != lower


def test_the_benchmark(command_table, monkeypatch, capsys, tmp_path):
    for side in ("src", "tgt"):
        (tmp_path / f"test.{side}").write_text("\n".join(debian(f"test.{side}")[:40]) + "\n", encoding="utf-8")
    (tmp_path / "texts").write_text("\n".join(debian("test.tgt")[:40]).lower() + "\n", encoding="utf-8")
    monkeypatch.setattr(
        "sys.argv", ["casing.py", str(tmp_path), "--table", str(command_table), "--texts", str(tmp_path / "texts")]
    )
    runpy.run_path(str(ROOT / "benchmarks" / "casing.py"), run_name="__main__")
    printed = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r": ([\d.]+) % of the words", printed)]
    assert len(shares) == 4 and shares[3] == max(shares) > 85 > 80 > shares[0]
    before, after = map(float, re.search(r"BLEU ([\d.]+) -> ([\d.]+)", printed).groups())
    assert before < after < 100
