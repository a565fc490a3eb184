"""The dictionary: ids, round trips, refusals; and the command that makes vocab.txt."""

import hashlib
import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bang.plugin.dictionary import BertDictionary

ROOT = Path(__file__).resolve().parents[1]
VOCAB = ROOT / "vocab.txt"
SMALL = Path(__file__).parent / "golden" / "data" / "vocab_small.txt"
SPECIALS = "[PAD] 1\n[UNK] 2\n[CLS] 2\n[SEP] 2\n[MASK] 1\n"
PUBLISHED = "4ee27a01daf6cab06276f3527c6a0472f36a120e2149d246fd947be6a7085d6e"


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def make_vocab(*arguments):
    command = [sys.executable, ROOT / "research" / "make_vocab.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def bert_lines() -> list[str]:
    """bert-base-uncased's vocabulary file, made back from vocab.txt."""
    pieces = [line.rsplit(" ", 1)[0] for line in VOCAB.read_bytes().decode().split("\n")[:-1]]
    pieces[2] = "[unused1]"
    return pieces


@pytest.mark.parametrize("path, size", [(VOCAB, 30522), (SMALL, 1389)])
def test_ids_are_line_numbers(path, size):
    d = BertDictionary.load(path)
    assert (len(d), d.nspecial) == (size, 0)
    assert (d.pad(), d.unk(), d.bos(), d.eos(), d.mask()) == (0, 100, 101, 102, 103)
    assert (d[2], d[103], d.index("[X_SEP]"), d.index("no such piece")) == ("[X_SEP]", "[MASK]", 2, 100)


def test_encodes_and_prints():
    d = BertDictionary.load(SMALL)
    ids = d.encode_line("the [X_SEP] qqqq the", add_if_not_exist=False, append_eos=True)
    assert ids.tolist() == [d.index("the"), 2, 100, d.index("the"), 102]
    assert d.string(torch.cat([torch.tensor([101]), ids])) == "the [X_SEP] [UNK] the"
    assert d.string(ids, extra_symbols_to_ignore={2}) == "the [UNK] the"
    assert len(d) == 1389


@pytest.mark.parametrize("path", [str(VOCAB), SMALL])
def test_saved_file_is_the_loaded_one(path, tmp_path):
    d = BertDictionary.load(path)
    copy = tmp_path / "new folder" / "dict.txt"
    d.save(str(copy))
    assert copy.read_bytes() == as_saved(Path(path).read_bytes())
    assert BertDictionary.load(copy) == d
    assert pickle.loads(pickle.dumps(d)) == d


def as_saved(text: bytes) -> bytes:
    """The reference counts each of the four special pieces twice, whatever the file says (golden sha256)."""
    return re.sub(rb"(?m)^(\[(?:PAD|UNK|CLS|SEP)\]) \d+$", rb"\1 2", text)


def test_open_files():
    text = io.StringIO()
    d = BertDictionary.load(io.StringIO(SPECIALS))
    d.save(text)
    assert text.getvalue().encode() == as_saved(SPECIALS.encode())
    assert BertDictionary.load(io.BytesIO(SPECIALS.encode())) == d
    assert BertDictionary.load(io.StringIO(SPECIALS + "more 1\n")) != d


def test_pieces_of_odd_characters_survive(tmp_path):
    pieces = ["\u2028", "\xa0", "a\u3000", "\x85", "\x0c", "\r", "\u200b", "7", "#fairseq:overwrite", "é", "\x1c\x1e"]
    text = SPECIALS + "".join(f"{piece} {count}\n" for count, piece in enumerate(pieces))
    path = write(tmp_path / "odd.txt", text)
    d = BertDictionary.load(path)
    assert d.symbols[5:] == pieces
    assert d.count[5:] == list(range(len(pieces)))
    d.save(tmp_path / "saved.txt")
    assert (tmp_path / "saved.txt").read_bytes() == as_saved(path.read_bytes())


def test_last_line_feed_may_be_missing():
    assert BertDictionary.load(io.StringIO(SPECIALS[:-1])) == BertDictionary.load(io.StringIO(SPECIALS))


@pytest.mark.parametrize(
    "text, message",
    [
        (SPECIALS + "cat\n", r"d\.txt, line 6: 'cat' is not 'piece count'"),
        (SPECIALS + "cat 1\r\n", r"d\.txt, line 6: 'cat 1\\r' is not"),
        (SPECIALS + "cat 01\n", r"line 6: 'cat 01' is not"),
        (SPECIALS + "cat -1\n", r"line 6"),
        (SPECIALS + "\n", r"line 6: '' is not"),
        (SPECIALS + " 1\n", r"line 6: ' 1' is not"),
        (SPECIALS + "cat 1\ncat 2\n", r"d\.txt, line 7: piece 'cat' is on line 6 already"),
        ("the 5\nof 3\n", r"d\.txt: no \[PAD\] among its 2 pieces"),
        (SPECIALS.replace("[MASK]", "[mask]"), r"no \[MASK\]"),
        ("", r"no \[PAD\] among its 0 pieces"),
    ],
)
def test_refuses_what_is_no_bert_dictionary(text, message, tmp_path):
    path = write(tmp_path / "d.txt", text)
    with pytest.raises(ValueError, match=message) as error:
        BertDictionary.load(path)
    assert "--task translation_bang --srcdict vocab.txt --tgtdict vocab.txt" in str(error.value)


def test_refuses_other_encodings_and_missing_files(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(SPECIALS.encode() + b"caf\xe9 1\n")
    with pytest.raises(ValueError, match=r"latin\.txt, line 6: not UTF-8 \(byte 0xe9 at byte 4"):
        BertDictionary.load(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.txt: no such dictionary file: binarize"):
        BertDictionary.load(str(tmp_path / "gone.txt"))


def test_vocab_is_the_published_one():
    assert hashlib.sha256(VOCAB.read_bytes()).hexdigest() == PUBLISHED


def test_make_vocab_makes_it(tmp_path):
    bert = write(tmp_path / "bert.txt", "\n".join(bert_lines()) + "\n")
    result = make_vocab(bert, tmp_path / "vocab.txt")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "vocab.txt").read_bytes() == VOCAB.read_bytes()
    assert PUBLISHED in result.stdout and "the same as the published" in result.stdout


def test_make_vocab_says_when_it_is_another_one(tmp_path):
    bert = write(tmp_path / "bert.txt", "\n".join(bert_lines()[:-1] + ["other"]) + "\n")
    result = make_vocab(bert, tmp_path / "vocab.txt")
    assert result.returncode == 0 and "NOT the published" in result.stdout


@pytest.mark.parametrize(
    "lines, message",
    [
        (lambda pieces: pieces[:1000], "bert.txt: 1000 lines where bert-base-uncased has 30522"),
        (lambda pieces: pieces[:50], "bert.txt, line 101: 'nothing' where"),
        (lambda pieces: ["[CLS]"] + pieces[1:], "bert.txt, line 1: '[CLS]' where bert-base-uncased has '[PAD]'"),
        (lambda pieces: [piece + "\r" for piece in pieces], "line 1: '[PAD]\\r' where"),
    ],
)
def test_make_vocab_refuses_other_files(lines, message, tmp_path):
    bert = write(tmp_path / "bert.txt", "\n".join(lines(bert_lines())) + "\n")
    result = make_vocab(bert, tmp_path / "vocab.txt")
    assert result.returncode == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bert.txt"]


def test_make_vocab_keeps_its_input(tmp_path):
    bert = write(tmp_path / "bert.txt", "x\n")
    result = make_vocab(bert, tmp_path / "." / "bert.txt")
    assert result.returncode == 1 and "is the input" in result.stderr
    assert bert.read_text() == "x\n"
