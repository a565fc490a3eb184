"""The vocabulary file: one `piece count` a line, the id of a piece its line number from 0; and how text becomes its pieces.

Free of fairseq, whose import takes seconds, for the commands that have no other use for it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UserError
from .files import StrPath, decode_line, replacing

VOCAB = Path(__file__).resolve().parent / "vocab.txt"
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PASSAGE_SEPARATOR = "[X_SEP]"
"""Stands between the passages of a source; one piece where the vocabulary has it, as the published one does."""

_REMEDY = "binarize with --task translation_bang --srcdict vocab.txt --tgtdict vocab.txt"
_COUNTED_TWICE = ("[UNK]", "[CLS]", "[SEP]")
# Nothing is stripped: a piece may be, or end in, a blank that only Unicode knows (U+00A0, U+2028 …).
_LINE = re.compile(r"(.+) (0|[1-9][0-9]{0,17})", re.DOTALL)


TOKENIZER_FILE = "tokenizer_config.json"
"""Beside a vocabulary it says how its text is normalized, as transformers writes it; without it, as bert-base-uncased's is."""


@dataclass(frozen=True)
class Normalization:
    """What is done to a text before it is split into pieces, under the names of `TOKENIZER_FILE`.

    Attributes:
        do_lower_case: letters become lower case.
        strip_accents: accents are left out; None: as `do_lower_case`.
        tokenize_chinese_chars: an ideograph is a word.
    """

    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True


UNCASED = Normalization()
"""That of bert-base-uncased, and so of the published vocabulary."""


def read_normalization(vocabulary: StrPath) -> Normalization:
    """The normalization of a vocabulary file, from `TOKENIZER_FILE` beside it.

    Raises:
        ValueError: that file is no JSON, or has something else there; one line.
    """
    path = Path(vocabulary).with_name(TOKENIZER_FILE)
    if not path.is_file():
        return UNCASED
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON's and UTF-8's
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: holds no settings by name")
    found = {option.name: settings.get(option.name, option.default) for option in fields(Normalization)}
    for name, value in found.items():
        if not (isinstance(value, bool) or value is None and name == "strip_accents"):
            raise UserError(f"{path}: {name} is {value!r}: give true or false")
    return Normalization(**found)


def write_normalization(normalization: Normalization, vocabulary: StrPath) -> None:
    """Writes `TOKENIZER_FILE` beside a vocabulary file, where it is needed.

    Raises:
        ValueError: vocabularies of another normalization are there.
    """
    if read_normalization(vocabulary) == normalization:
        return
    path = Path(vocabulary).with_name(TOKENIZER_FILE)
    others = [path] if path.exists() else sorted({*path.parent.glob("dict.*txt")} - {Path(vocabulary)})
    if others:
        raise UserError(
            f"{others[0]}: of a vocabulary with other capitals, accents or ideographs; give another folder, or remove it"
        )
    with replacing(path) as file:
        settings = {"tokenizer_class": "BertTokenizer"} | vars(normalization)
        file.write(f"{json.dumps(settings, indent=2)}\n".encode())


def vocabulary_files(vocabulary: StrPath) -> list[StrPath]:
    """The file of a vocabulary, and `TOKENIZER_FILE` where it is beside it."""
    beside = Path(vocabulary).with_name(TOKENIZER_FILE)
    return [vocabulary, *([beside] if beside.is_file() else [])]


def read_vocabulary(source: StrPath | Iterable[str | bytes]) -> dict[str, int]:
    """Reads the pieces, in the order of their ids, and their counts. BERT's own vocab.txt, without counts, serves too.

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
    lines = [
        (decode_line(line, name, number) if isinstance(line, bytes) else line).removesuffix("\n")
        for number, line in enumerate(source, start=1)
    ]
    if "[UNK]" in lines:  # BERT's own; the counts are those of the published file
        lines = [f"{piece} {2 if piece in _COUNTED_TWICE else 1}" for piece in lines]
    for number, line in enumerate(lines, start=1):
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


def fingerprint(source: Sequence[str], target: Sequence[str], normalization: Normalization = UNCASED) -> str:
    """What checkpoints keep of the vocabularies that they were trained with.

    Args:
        source, target: pieces in the order of their ids.
    """
    of_text = [] if normalization == UNCASED else ["\n", repr(normalization)]
    return hashlib.sha256("\n".join([*source, "\n", *target, *of_text]).encode()).hexdigest()


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
