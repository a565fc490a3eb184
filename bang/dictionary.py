"""BERT's word pieces as a fairseq dictionary."""

import os
import re
from pathlib import Path
from typing import IO

from fairseq.data import Dictionary

from .files import decode_line

_REMEDY = "binarize with --task translation_bang --srcdict vocab.txt --tgtdict vocab.txt"
# Nothing is stripped: a piece may be, or end in, a blank that only Unicode knows (U+00A0, U+2028 …).
_LINE = re.compile(r"(.+) (0|[1-9][0-9]*)", re.DOTALL)


class BertDictionary(Dictionary):
    """A dictionary whose ids are the line numbers, from 0, of a file with one `piece count` a line.

    fairseq's own four specials are not added; BERT's stand in the file and take their roles:
    pad `[PAD]`, unk `[UNK]`, bos `[CLS]`, eos `[SEP]`, and `[MASK]`, which fairseq does not know.
    Make one with `BertDictionary.load(file)`.
    """

    def __init__(self) -> None:
        super().__init__(bos="[CLS]", pad="[PAD]", eos="[SEP]", unk="[UNK]", add_special_symbols=False)
        self.mask_word = "[MASK]"
        self.nspecial = 0  # how many first symbols fairseq takes for its own and does not save

    def mask(self) -> int:
        """Helper to get index of mask symbol"""
        return self.mask_index

    @classmethod
    def load(cls, f: str | os.PathLike[str] | IO) -> "BertDictionary":
        """Loads a dictionary from a path or an open file, text or binary.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a line is not UTF-8 or not `piece count`, a piece stands there twice,
                or one of the five special pieces is missing.
        """
        dictionary = cls()
        dictionary.add_from_file(f)
        return dictionary

    def add_from_file(self, f: str | os.PathLike[str] | IO) -> None:
        """Adds the pieces of a file, after those already there, and finds the special ones; see `load`."""
        if not hasattr(f, "read"):
            if not os.path.exists(f):
                raise FileNotFoundError(f"{f}: no such dictionary file: {_REMEDY}")
            with open(f, "rb") as file:
                return self.add_from_file(file)
        name = getattr(f, "name", "dictionary")
        for number, line in enumerate(f, start=1):
            if isinstance(line, bytes):
                line = decode_line(line, name, number)
            self._add_line(line.removesuffix("\n"), f"{name}, line {number}")
        self._find_specials(name)

    def _add_line(self, line: str, where: str) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{where}: {line[:80]!r} is not 'piece count': {_REMEDY} "
                "(scripts/make_vocab.py makes vocab.txt from BERT's own vocabulary file)"
            )
        piece, count = match.groups()
        if piece in self.indices:
            raise ValueError(
                f"{where}: piece {piece[:80]!r} stands already on line {self.indices[piece] + 1}: {_REMEDY}"
            )
        self.add_symbol(piece, n=int(count))

    def _find_specials(self, name: str) -> None:
        for role in ("pad", "unk", "bos", "eos", "mask"):
            piece = getattr(self, f"{role}_word")
            if piece not in self.indices:
                raise ValueError(
                    f"{name}: no {piece} among its {len(self)} pieces, so this is no BERT dictionary: {_REMEDY}"
                )
            setattr(self, f"{role}_index", self.indices[piece])
            if role != "mask":
                # the reference counts a special piece once as read and once as special, whatever
                # the file says; dict.*.txt are byte-identical to its only so (golden sha256)
                self.count[self.indices[piece]] = 2

    def save(self, f: str | os.PathLike[str] | IO[str]) -> None:
        """Writes every piece with its count, to a path or an open text file, as `load` reads them."""
        if not hasattr(f, "write"):
            Path(f).parent.mkdir(parents=True, exist_ok=True)
            with open(f, "w", encoding="utf-8", newline="\n") as file:
                return self.save(file)
        f.writelines(f"{piece} {count}\n" for piece, count in zip(self.symbols, self.count))
