"""BERT's word pieces as a fairseq dictionary."""

import os
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fairseq.data import Dictionary
from fairseq.tokenizer import tokenize_line

from ..text.files import StrPath
from ..text.vocabulary import UNCASED, read_normalization, read_vocabulary, write_normalization
from .raw_text import warn_of_unknown


@dataclass
class Encoded:
    """What a dictionary has encoded: word pieces, and those of them that were [UNK]."""

    total: int = 0
    unknown: int = 0
    process: int = field(default_factory=os.getpid)

    def clear(self) -> None:
        self.total = self.unknown = 0

    def report(self) -> None:
        """Warns of raw text, at the end of a command."""
        if os.getpid() == self.process:
            warn_of_unknown(self.unknown, self.total, "the text that was read")


class BertDictionary(Dictionary):
    """A dictionary whose ids are the line numbers, from 0, of a file with one `piece count` a line.

    fairseq's own four specials are not added; BERT's stand in the file and take their roles:
    pad `[PAD]`, unk `[UNK]`, bos `[CLS]`, eos `[SEP]`, and `[MASK]`, which fairseq does not know.
    Make one with `BertDictionary.load(file)`.

    Attributes:
        normalization: of the text that it is for; loaded and saved with the file, in one beside it.
    """

    def __init__(self) -> None:
        super().__init__(bos="[CLS]", pad="[PAD]", eos="[SEP]", unk="[UNK]", add_special_symbols=False)
        self.nspecial = 0  # how many first symbols fairseq takes for its own and does not save
        self.normalization = UNCASED
        self.encoded = Encoded()
        # fairseq-preprocess has no hook for its end; copies in its workers do not report
        weakref.finalize(self, self.encoded.report)

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.normalization == getattr(other, "normalization", None)

    def mask(self) -> int:
        """Helper to get index of mask symbol"""
        return self.mask_index

    @classmethod
    def load(cls, f: StrPath | IO) -> "BertDictionary":
        """Loads a dictionary from a path or an open file, text or binary.

        Raises:
            FileNotFoundError, ValueError: see `read_vocabulary` and `read_normalization`.
        """
        dictionary = cls()
        dictionary.add_from_file(f)
        return dictionary

    def add_from_file(self, f: StrPath | IO) -> None:
        """Adds the pieces of a file, and finds the special ones; see `load`."""
        if isinstance(f, (str, os.PathLike)):
            self.normalization = read_normalization(f)
        for piece, count in read_vocabulary(f).items():
            self.add_symbol(piece, n=count)
        self.pad_index = self.indices[self.pad_word]
        self.unk_index = self.indices[self.unk_word]
        self.bos_index = self.indices[self.bos_word]
        self.eos_index = self.indices[self.eos_word]
        self.mask_index = self.indices["[MASK]"]
        # The reference counts these four once as read and once as special, whatever the file says;
        # dict.*.txt is byte-identical to its only so.
        for index in (self.pad_index, self.unk_index, self.bos_index, self.eos_index):
            self.count[index] = 2

    def encode_line(self, line, line_tokenizer=tokenize_line, add_if_not_exist=True, *args, **kwargs):
        """As fairseq's; counts what it does not know."""
        ids = super().encode_line(line, line_tokenizer, add_if_not_exist, *args, **kwargs)
        self.encoded.total += len(ids) - int(len(ids) > 0 and ids[-1] == self.eos_index)
        self.encoded.unknown += int((ids == self.unk_index).sum())
        return ids

    def save(self, f: StrPath | IO[str]) -> None:
        """Writes every piece with its count, to a path or an open text file, as `load` reads them."""
        if isinstance(f, (str, os.PathLike)):
            Path(f).parent.mkdir(parents=True, exist_ok=True)
            write_normalization(self.normalization, f)
            with open(f, "w", encoding="utf-8", newline="\n") as file:
                return self.save(file)
        f.writelines(f"{piece} {count}\n" for piece, count in zip(self.symbols, self.count))
