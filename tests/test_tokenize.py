"""Raw text to word pieces: equal to transformers' BertTokenizer, line for line, in bounded memory."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from support.kills import ended, of_session

from bang.__main__ import main
from bang.text import tokenize, wordpieces
from bang.text.vocabulary import VOCAB, Normalization, read_vocabulary
from bang.text.wordpieces import WordPieces, load_word_pieces

ROOT = Path(__file__).resolve().parents[1]

NASTY = [
    "",
    " ",
    "  Hello,   WORLD!  ",
    "\t tab \x0b vertical \x0c form feed \r return",
    "no\u2028line\u2029break\x85here\x1c\x1d\x1e\x1f",
    "nul \x00 bell \x07 del \x7f soft\xadhyphen zero\u200bwidth joiner\u200d bom \ufeff",
    "\x00",
    "\u200b",
    "\ufffd",
    " \xa0 \u3000 ",
    "naïve café Ångström ÉCOLE e\u0301 \u0301 a\u0301\u0323b \u0345",
    "İstanbul ΣΊΣΥΦΟΣ ß ẞ ﬁ Ǆ",
    "你好世界 mixed漢字and kana カタカナ ひらがな 한국어 𠀀𠀁",
    "emoji 👩‍👩‍👧 🇩🇪 ☃️ private \ue000 unassigned \U0003ffff \U0010ffff",
    "a [SEP] b[SEP]c [MASK][CLS] [PAD]x [UNK] [sep] [ SEP ] [X_SEP] [unused1] ##ing [SE P]",
    "[SEP",
    "[SEP]]",
    "[[MASK]",
    "[MA\u0301SK] [\u200bSEP]",
    "a" * 99,
    "a" * 100,
    "a" * 101,
    "x " + "é" * 100,
    "unaffable" * 12,
    "!" * 300,
    "don't can't U.S.A. 3.14 1,000,000 C++ foo_bar http://example.org/?q=a%20b&c=d#e",
]


@pytest.fixture(scope="module")
def reference():
    from transformers import BertTokenizer

    pieces = list(read_vocabulary(VOCAB))
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = BertTokenizer(vocab=vocab, additional_special_tokens=["[X_SEP]"])
    return lambda line: " ".join(tokenizer.tokenize(line))


def random_lines(count: int) -> list[str]:
    rng = random.Random(1)
    ranges = [(0x20, 0x7F), (0, 0x250), (0x300, 0x370), (0x2000, 0x2070), (0x3000, 0x9FFF), (0, 0xD800), (0xE000, 0x110000)]
    parts = ["[SEP]", "[MASK]", "the", "Running", " ", " ", "##s", "\xa0", "\r"]
    lines = []
    for _ in range(count):
        low, high = rng.choice(ranges)
        line = [rng.choice(parts) if rng.random() < 0.3 else chr(rng.randrange(low, high)) for _ in range(rng.randrange(60))]
        lines.append("".join(line).replace("\n", ""))
    return lines


def run(*arguments, **options):
    command = [sys.executable, "-m", "bang", "tokenize", *arguments]
    return subprocess.run(command, capture_output=True, cwd=ROOT, **options)


def test_separator_of_passages_is_one_piece_where_the_vocabulary_has_it(tmp_path):
    line = "One passage [X_SEP] another[X_SEP]third [x_sep]"
    assert load_word_pieces()(line) == "one passage [X_SEP] another [X_SEP] third [ x _ sep ]"
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD] 1\n[UNK] 2\n[CLS] 2\n[SEP] 2\n[MASK] 1\n[ 1\nx 1\n_ 1\nsep 1\n] 1\n")
    assert load_word_pieces(vocab)("x[X_SEP]") == "x [ x _ sep ]"


@pytest.mark.parametrize("lines", [NASTY, random_lines(4000)], ids=["nasty", "random"])
def test_equals_transformers(lines, reference):
    word_pieces = load_word_pieces()
    for line in lines + lines[:100]:  # the second time from memory
        assert word_pieces(line) == reference(line), repr(line)
        assert word_pieces(line) == reference(line.strip()), repr(line)  # as in the published loop


@pytest.mark.slow
def test_every_character_equals_transformers(reference):
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    word_pieces = load_word_pieces()
    for start in range(0, len(characters), 1 << 14):
        part = characters[start : start + (1 << 14)]
        for line in ("a".join(part), " ".join(part)):
            assert word_pieces(line) == reference(line), hex(start)


def test_very_long_line(reference):
    line = "Some long-winded words, " * 50_000
    assert load_word_pieces()(line) == reference("Some long-winded words,") + (" " + reference("Some long-winded words,")) * (
        50_000 - 1
    )
    assert load_word_pieces()("é" * 3_000_000) == "[UNK]"


@pytest.mark.parametrize("workers", [1, 2])
def test_files_line_for_line(workers, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "CHUNK_BYTES", 512)  # many chunks a file
    lines = NASTY + random_lines(300)
    contents = {"a": "\n".join(lines), "b": "\n".join(lines) + "\n", "c": "\n\n\n", "d": "one"}
    for name, text in contents.items():
        (tmp_path / name).write_bytes(text.encode())
    outputs = [tmp_path / f"{name}.tok" for name in contents]
    tokenize.tokenize_files([tmp_path / name for name in contents], outputs, workers=workers)
    expected = "".join(f"{reference(line)}\n" for line in lines)
    texts = [output.read_bytes().decode() for output in outputs]
    assert texts == [expected, expected, "\n\n\n", "one\n"]


def echo(item: int) -> int:
    time.sleep(0.02 if item % 5 == 0 else 0)
    return item * item


def test_reads_only_a_few_chunks_ahead():
    taken = 0

    def items():
        nonlocal taken
        for taken in range(60):  # noqa: UP028  (the count is looked at)
            yield taken

    for index, (item, result) in enumerate(tokenize._map_in_order(echo, items(), workers=2)):
        assert (item, result) == (index, index * index)
        assert taken - index < 2 * tokenize.CHUNKS_PER_WORKER
    assert index == 59


def test_memory_does_not_grow_with_the_file(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes((b"x" * 2000 + b"\n") * 8000)
    (tmp_path / "small").write_text("first run: imports, the vocabulary\n")
    tokenize.tokenize_files([tmp_path / "small"], [tmp_path / "out"])
    tracemalloc.start()
    tokenize.tokenize_files([raw], [tmp_path / "out"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out").read_bytes() == b"[UNK]\n" * 8000
    assert peak < 1_500_000 < raw.stat().st_size / 10


def test_command_on_several_files(tmp_path):
    for name in ("train.src", "train.tgt"):
        (tmp_path / name).write_text(f"Tokenizing {name}\n")
    result = run("--out-dir", tmp_path / "new" / "folder", tmp_path / "train.src", tmp_path / "train.tgt", "--workers", "2")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    out = tmp_path / "new" / "folder"
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "train.src": "token ##izing train . sr ##c\n",
        "train.tgt": "token ##izing train . t ##gt\n",
    }


def test_command_from_stdin_with_another_vocabulary(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD] 1\n[UNK] 2\n[CLS] 2\n[SEP] 2\n[MASK] 1\ncat 1\n##s 1\n")
    result = run("-", "--vocab", vocab, input=b"Cats dog\n\ncat")
    assert (result.returncode, result.stdout.decode()) == (0, "cat ##s [UNK]\n\ncat\n")
    result = run("-", "--vocab", vocab, input=b"")  # a filter of nothing
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_command_leaves_no_half_file(workers, tmp_path):
    good = tmp_path / "good"
    good.write_text("fine\n")
    bad = tmp_path / "bad"
    bad.write_bytes(b"fine\n" * 200_000 + b"ab\xff\n")
    result = run("--out-dir", tmp_path / "out", good, bad, "--workers", workers)
    assert result.returncode == 1
    assert f"{bad}, line 200001: not UTF-8 (byte 0xff at byte 3".encode() in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good"]


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_command_leaves_nothing(number, status, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "bang", "tokenize", "--out-dir", tmp_path / "out", pipe, "--workers", "2"]
    restore = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests run in the background ignore it
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=restore)
    with open(pipe, "wb") as raw:  # opens once the command reads
        raw.write(b"some words\n" * 100_000)
        raw.flush()
        while not list((tmp_path / "out").glob(".pipe.*.tmp")):
            time.sleep(0.01)
        os.killpg(process.pid, number)  # as a terminal does: the workers get it too
        _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert b"Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []


def test_workers_end_when_the_command_is_killed(tmp_path):
    """SIGKILL of the command alone, as where memory runs out."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "bang", "tokenize", "--out-dir", tmp_path / "out", pipe, "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    with open(pipe, "wb") as raw:
        raw.write(b"some words\n" * 100_000)
        raw.flush()
        while not list((tmp_path / "out").glob(".pipe.*.tmp")):
            time.sleep(0.01)
        workers = [child for child in of_session(process.pid) if child != process.pid]
        process.kill()
        process.wait()
    assert len(workers) == 2 and all(ended(worker, within=10) for worker in workers)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{0}/raw", "--out-dir", "{0}"], "is the input"),
        (["{0}/raw", "{0}/sub/raw", "--out-dir", "{0}/out"], "would both be written to"),
        (["{0}/raw", "{0}/raw", "--out-dir", "{0}/out"], "would both be written to"),
        (["{0}/gone", "--out-dir", "{0}/out"], "gone: no such file"),
        (["{0}/sub", "--out-dir", "{0}/out"], "is a folder"),
        (["{0}/raw", "{0}/empty", "--out-dir", "{0}/out"], "empty: empty: give a file with one text a line"),
        (["{0}/raw", "--out-dir", "{0}/out", "--vocab", "{0}/raw"], "raw, line 1: 'text' is not 'piece count'"),
        (["{0}/raw", "--out-dir", "{0}/raw"], "raw"),
        (["{0}/raw"], "give --out-dir DIR"),
        (["-", "--out-dir", "{0}/out"], "give --out-dir DIR with files, and - without it"),
        (["-", "{0}/raw", "--out-dir", "{0}/out"], "cannot stand beside other files"),
        (["{0}/raw", "--out-dir", "{0}/out", "--workers", "0"], "--workers 0: give 1 or more"),
    ],
)
def test_refusals(arguments, message, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "empty").touch()
    for path in (tmp_path / "raw", tmp_path / "sub" / "raw"):
        path.write_text("text\n")
    with pytest.raises(SystemExit) as stop:
        main(["tokenize", *(argument.format(tmp_path) for argument in arguments)])
    assert message in stop.value.code and stop.value.code.startswith("bang tokenize: error: ")
    assert (tmp_path / "raw").read_text() == "text\n"
    assert not list((tmp_path / "out").glob("*"))


def test_a_smaller_vocabulary_spells_what_it_lacks(tmp_path):
    text, small = tmp_path / "text", tmp_path / "vocab.txt"
    text.write_text("a library for archives, a library for games: the unaffable\n", encoding="utf-8")
    main(["vocabulary", str(small), str(text), "--vocab", str(VOCAB)])
    whole, pieces = read_vocabulary(VOCAB), read_vocabulary(small)
    characters = {piece for piece in whole if len(piece.removeprefix("##")) == 1}
    assert pieces.keys() - characters == {"[PAD]", "[X_SEP]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "library", "for"}
    assert characters < pieces.keys() and list(pieces) == [piece for piece in whole if piece in pieces]
    assert {piece: whole[piece] for piece in pieces} == pieces
    split = load_word_pieces(small)
    assert split("A library, 漢 games") == "a library , 漢 g ##a ##m ##e ##s"
    main(["vocabulary", str(small), str(text), "--min-count", "1"])
    assert load_word_pieces(VOCAB)(text.read_text()).split() == WordPieces(list(read_vocabulary(small)))(text.read_text()).split()
    for arguments, message in (
        (["--min-count", "0"], "--min-count 0: give 1 or more"),
        (["--vocab", str(small)], "is the input"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["vocabulary", str(small), str(text), *arguments])


@pytest.mark.parametrize("ideographs_are_words", [True, False])
def test_long_words_are_split_in_parts_that_change_nothing(ideographs_are_words, monkeypatch):
    """Whatever stands between blanks, and wherever it is cut."""
    split = WordPieces(list(read_vocabulary(VOCAB)), Normalization(tokenize_chinese_chars=ideographs_are_words))
    cuts = wordpieces._cuts(ideographs_are_words)
    ideographs = range(0x4E00, 0xA000)
    for character in filter(cuts.match, map(chr, [*range(0x4E00), *ideographs[::100], *range(0xA000, 1 << 16)])):
        for before, behind in (("a", "b"), ("ば", "\u0301é"), ("[", "X_SEP]")):
            whole, parts = split(before + character + behind), map(split, (before, character + behind))
            assert whole == " ".join(filter(None, parts)), hex(ord(character))
    monkeypatch.setattr(wordpieces, "_PART", 3)
    for line in [*NASTY, "[X_SEP]" * 5 + "__[MASK]]]_[_]" * 5 + "x\ty\u3000z" * 5]:
        assert " ".join(split.pieces(line)) == split(line), repr(line)


@pytest.mark.parametrize("unit", ["中", ",", "]", "a\t", "word ", "[PAD]"])
def test_what_lies_behind_the_pieces_that_are_read_is_not_split(unit):
    split = WordPieces(list(read_vocabulary(VOCAB)))
    seen = []
    split._split_known = split._split = lambda word: seen.append(len(word)) or " ".join(["x"] * len(word))
    assert len(list(itertools.islice(split.pieces(unit * 500_000), 600))) == 600
    assert sum(seen) < 6000
