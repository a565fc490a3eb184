"""Raw texts and their prefixes made ids, and refused where they are none."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import modes
from ..errors import UserError
from ..options import Options
from ..text.vocabulary import Normalization
from ..text.wordpieces import WordPieces


class TextTooLong(UserError):
    """A text has more word pieces than the model takes."""


class Source(NamedTuple):
    """A text ready for the network.

    Attributes:
        ids: eos last; eos alone: an empty text. int32: a list of a million texts has to fit into memory.
        truncated: it was cut to what the model takes.
        error: why there are no ids.
        text: as it was given.
        prefix: ids that the generated text begins with; None: free.
    """

    ids: np.ndarray
    truncated: bool = False
    error: str | None = None
    text: str = ""
    prefix: np.ndarray | None = None


NO_IDS = np.empty(0, dtype=np.int64)


class SourceTokenizer:
    """Makes the sources of texts: ids of word pieces.

    Args:
        pieces, normalization: of the vocabulary.
        longest: source that the network takes, eos included.
    """

    def __init__(self, pieces: Sequence[str], normalization: Normalization, longest: int):
        self.word_pieces = WordPieces(pieces, normalization)
        self.limit = longest - 1  # word pieces
        self._ids = {piece: index for index, piece in enumerate(pieces)}

    def encode_all(
        self, texts: Iterable[str], prefixes: Iterator[str], options: Options, truncate: bool, on_error: str, first: int = 1
    ) -> Iterator[Source]:
        """The sources of texts, one after the other; the arguments are those of `Bang.generate`."""
        for number, text in enumerate(texts, start=first):
            prefix = next(prefixes, None)
            if prefix is None:
                raise UserError(f"text {number} has no prefix: give one for each text, empty for none")
            try:
                source = self.encode(text, number, truncate)
                if prefix:
                    source = source._replace(prefix=self._prefix(prefix, number, len(source.ids), options))
            except ValueError as error:
                if on_error == "raise":
                    raise
                source = Source(np.empty(0, dtype=np.int32), error=str(error))
            yield source

    def encode(self, text: str, number: int, truncate: bool) -> Source:
        """The ids of a text, eos last; eos alone: an empty text. Pads are no part of a text, though it may spell them."""
        limit = self.limit
        pieces = list(itertools.islice(self._pieces(text, f"text {number}"), limit + 1))  # a text may be far longer
        if len(pieces) > limit and not truncate:
            raise TextTooLong(
                f"text {number} has over {limit} word pieces, the model's limit: "
                "shorten it, or have it cut (truncate=True, --truncate-source) or left blank (on_error='blank', --on-error blank)"
            )
        ids = [self._ids[piece] for piece in pieces[:limit]] + [self._ids["[SEP]"]]
        return Source(np.array(ids, dtype=np.int32), len(pieces) > limit, text=text)

    def _prefix(self, prefix: str, number: int, length: int, options: Options) -> np.ndarray:
        """The ids of what the text of a source of `length` ids begins with."""
        pieces = list(self._pieces(prefix, f"the prefix of text {number}"))
        if "[SEP]" in pieces:
            raise UserError(f"the prefix of text {number} has [SEP], which ends a text: leave it out")
        limit = int(options.max_len_a * length + options.max_len)
        if len(pieces) > limit:
            raise UserError(
                f"the prefix of text {number} has {len(pieces)} word pieces, over the limit of {limit} of the text: shorten it, "
                "or raise max_len (--max-len)"
            )
        return np.array([self._ids[piece] for piece in pieces], dtype=np.int64)

    def _pieces(self, text: Any, name: str) -> Iterator[str]:
        """The word pieces of what must be a text."""
        if not isinstance(text, str):
            raise UserError(f"{name} is no text but of type {type(text).__name__}: give str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            lone = f"{text[error.start]!r} at character {error.start + 1}"
            raise UserError(f"{name} is no Unicode text: half a surrogate pair, {lone}") from None
        return (piece for piece in self.word_pieces.pieces(text) if piece != "[PAD]")


def prefixes_of(prefix: str | Iterable[str] | None, count: int | None, options: Options) -> Iterator[str]:
    """What each text begins with, "" for nothing.

    Args:
        count: of the texts; None: unknown.
    """
    if prefix is None or prefix == "":
        return itertools.repeat("")
    mode = modes.find(options.mode)
    if not mode.strategy(options).anchored:
        have = ", ".join(name for name, other in modes.MODES.items() if other.anchored)
        raise UserError(f"prefix: mode {mode.name} sees no token of its text; leave it out, or give one of {have}")
    if isinstance(prefix, str):
        return itertools.repeat(prefix)
    check_texts(prefix)
    if count is not None:
        prefix = list(prefix)
        if len(prefix) != count:
            raise UserError(
                f"{len(prefix)} prefixes for {count} texts: give one for each text, empty for none, or one str for all"
            )
    return iter(prefix)


def check_texts(texts: Any) -> None:
    """Refuses what is no text and no texts.

    Raises:
        ValueError: in one line.
    """
    if isinstance(texts, (bytes, bytearray, Mapping)) or not isinstance(texts, Iterable):
        raise UserError(f"a {type(texts).__name__} is no text: give a str or several")
    dimensions = getattr(texts, "ndim", 1)  # of an array or a table
    if dimensions != 1:  # the texts of a DataFrame would be the names of its columns
        raise UserError(f"a {type(texts).__name__} of {dimensions} dimensions holds no texts in order: give a column of it")


def has_length(texts: Any) -> bool:
    try:
        return len(texts) >= 0
    except TypeError:
        return False
