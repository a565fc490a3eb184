"""Running text for the comparison: its train and valid part, and a vocabulary of the pieces that the train part has.

    python research/evidence_text.py DATA OUT MIN_COUNT

DATA has text.txt or text.txt.gz. OUT gets text.train, text.valid (the last 2 % of the documents) in raw/, and vocab.txt.
"""

import gzip
import sys
from collections import Counter
from pathlib import Path

from bang.errors import UserError
from bang.text.files import read_lines, replacing
from bang.text.vocabulary import VOCAB, read_vocabulary
from bang.text.wordpieces import load_word_pieces

HELD_OUT = 50
"""One document of so many is held out."""

FIRST = 104
"""Pieces at the vocabulary's beginning that always stay: special and unused ones."""


def find_text(data: Path) -> Path:
    """The file of running text.

    Raises:
        ValueError: there is none.
    """
    found = [path for path in (data / "text.txt.gz", data / "text.txt") if path.is_file()]
    if not found:
        raise UserError(f"{data} has no text.txt or text.txt.gz: give running text, documents separated by blank lines")
    return found[0]


def split(text: str) -> tuple[list[str], list[str]]:
    """The documents to train on, and those that are held out."""
    documents = [document.strip("\n") for document in text.split("\n\n") if document.strip("\n")]
    train = len(documents) - len(documents) // HELD_OUT
    return documents[:train], documents[train:]


def main(data: Path, out: Path, min_count: int) -> None:
    path = find_text(data)
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", encoding="utf-8", newline="\n") as file:
        parts = dict(zip(("train", "valid"), split(file.read()), strict=True))
    (out / "raw").mkdir(parents=True, exist_ok=True)
    for name, documents in parts.items():
        with replacing(out / "raw" / f"text.{name}") as file:
            file.writelines(f"{document}\n\n".encode() for document in documents)
    word_pieces = load_word_pieces()
    seen = Counter(piece for line in read_lines(out / "raw" / "text.train") for piece in word_pieces(line).split())
    with replacing(out / "vocab.txt") as file:
        for number, (piece, count) in enumerate(read_vocabulary(VOCAB).items()):
            character = piece.removeprefix("##")
            is_single = len(character) == 1 and "!" <= character <= "~"  # what words are spelled with
            if number < FIRST or is_single or seen[piece] >= min_count:
                file.write(f"{piece} {count}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
