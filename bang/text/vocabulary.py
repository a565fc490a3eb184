"""The vocabulary file: one `piece count` a line, the id of a piece its line number from 0.

Free of fairseq, whose import takes seconds, for the commands that have no other use for it.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from .files import StrPath, decode_line

VOCAB = Path(__file__).resolve().parent / "vocab.txt"
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PASSAGE_SEPARATOR = "[X_SEP]"
"""Stands between the passages of a source; one piece where the vocabulary has it, as the published one does."""

_REMEDY = "binarize with --task translation_bang --srcdict vocab.txt --tgtdict vocab.txt"
# Nothing is stripped: a piece may be, or end in, a blank that only Unicode knows (U+00A0, U+2028 …).
_LINE = re.compile(r"(.+) (0|[1-9][0-9]{0,17})", re.DOTALL)


def read_vocabulary(source: StrPath | Iterable[str | bytes]) -> dict[str, int]:
    """Reads the pieces, in the order of their ids, and their counts.

    Args:
        source: a path, or an open file, text or binary.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not UTF-8 or not `piece count`, a piece stands there twice,
            or one of the five special pieces is missing.
    """
    if isinstance(source, (str, os.PathLike)):
        if not os.path.exists(source):
            raise FileNotFoundError(f"{source}: no such dictionary file: {_REMEDY}")
        if not os.path.isfile(source):  # /dev/zero never ends
            raise UserError(f"{source}: is no file: {_REMEDY}")
        with open(source, "rb") as file:
            return read_vocabulary(file)
    name = getattr(source, "name", "dictionary")
    counts: dict[str, int] = {}
    for number, line in enumerate(source, start=1):
        if isinstance(line, bytes):
            line = decode_line(line, name, number)
        line = line.removesuffix("\n")
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{name}, line {number}: {line[:80]!r} is not 'piece count': {_REMEDY} "
                "(research/make_vocab.py makes vocab.txt from BERT's own vocabulary file)"
            )
        piece = match[1]
        if piece in counts:
            first = list(counts).index(piece) + 1
            raise UserError(f"{name}, line {number}: piece {piece[:80]!r} is on line {first} already: {_REMEDY}")
        counts[piece] = int(match[2])
    for piece in SPECIAL_PIECES:
        if piece not in counts:
            raise UserError(f"{name}: no {piece} among its {len(counts)} pieces, so this is no BERT dictionary: {_REMEDY}")
    return counts


def fingerprint(source: Sequence[str], target: Sequence[str]) -> str:
    """What checkpoints keep of the vocabularies that they were trained with.

    Args:
        source, target: pieces in the order of their ids.
    """
    return hashlib.sha256("\n".join([*source, "\n", *target]).encode()).hexdigest()


def smaller_vocabulary(vocabulary: Mapping[str, int], seen: Mapping[str, int], least: int) -> dict[str, int]:
    """The pieces that a text uses, in their order, with those that every vocabulary needs.

    Special pieces stay, and single characters, within a word too: what else a word could be made of, it is spelled.

    Args:
        vocabulary: see `read_vocabulary`.
        seen: how often the text has each piece.
        least: how often it has to have one.
    """

    def stays(piece: str) -> bool:
        return piece in (*SPECIAL_PIECES, PASSAGE_SEPARATOR) or len(piece.removeprefix("##")) == 1 or seen.get(piece, 0) >= least

    return {piece: count for piece, count in vocabulary.items() if stays(piece)}
