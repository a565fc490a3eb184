"""The link: what a token's neighbours say of it, an n-gram model of target word pieces in one memory-mapped file.

KenLM was looked at: it is C++ to compile (no wheels), its models are estimated by a program that the Python package
lacks, and Python asks it one token at a time. A search asks for thousands at once: sorted keys and `searchsorted` do.

The probabilities are those of `counting`. Kept is the *ratio* log(p(y | h) / p(y)), which is what the search adds: dividing
by p(y) keeps frequent tokens from winning for being frequent. An n-gram without an entry has the ratio of the shorter one
plus its context's *back-off*, so that the probabilities behind a context sum to one, whatever a threshold has dropped.

A text begins with eos as a context and ends with eos as a token.

Shapes: V vocabulary, n bigrams, m trigrams with entries.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property

import numpy as np

from ..errors import UserError
from ..text.files import StrPath, replacing
from .keys import Keys, values_at

LINK_FILE = "link.bin"
"""A link's name in a model's folder, and beside a checkpoint."""
NO_LINK = "none"
_MAGIC = b"bang link "
_VERSION = 1
UNIT = 1024
"""Ratios and back-offs are whole 1/1024, in 16 bits: from -32 to 32, with an error of 0.0005 at most."""
_MARGIN = 64  # arrays begin at multiples of so many bytes
_MOST_OF_32_BITS = 1 << 16  # vocabularies whose bigram keys are below 2 ** 32


@dataclass(frozen=True)
class Weights:
    """How much the link counts for in a path's score. Chosen on validation pairs: they belong to a model.

    Attributes:
        weight: of the ratio log(p(y | h) / p(y)).
        gain: for a token that follows the one before it in the source, too.
        bonus: for each token but the text's end.
        end: times `weight`, of the ratio of a text's end. Above 1 few texts end unfinished, in `for` or `of`.
        candidates: tokens of a slot that are looked at.
        width: paths kept for each last token; 1 is exact for order 2.
    """

    weight: float = 0.5
    gain: float = 2.0
    bonus: float = 0.3
    end: float = 2.0
    candidates: int = 16
    width: int = 1

    def __post_init__(self):
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UserError(f"link: {option.name}={value!r} is no number")
            if option.type is int and (not isinstance(value, int) or not 1 <= value <= 4096):
                raise UserError(f"link: {option.name}={value!r}: give a whole number from 1 to 4096")


def vocabulary_of(pieces: Sequence[str]) -> str:
    """The fingerprint of a vocabulary, pieces in the order of their ids."""
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()


@dataclass(frozen=True)
class Link:
    """An n-gram model of word pieces, and its weights.

    Attributes:
        order: 2 or 3.
        size: entries of the vocabulary, V.
        eos: id.
        vocabulary: fingerprint, see `vocabulary_of`.
        unigrams: log p(y), float32 (V).
        back_off1: of contexts of one token, int16 (V).
        keys2: of bigrams, sorted: first token * V + second, unsigned, 32 bits for V up to 65,536, else 64 (n).
        ratios2: of bigrams, int16 (n).
        back_off2: of contexts of two tokens, int16 (n; order 2: 0).
        keys3: of trigrams, sorted: index of the first two tokens' bigram * V + third token, uint64 (m).
        ratios3: of trigrams, int16 (m).
        weights: of the search.
        dropped: n-grams below the threshold.
    """

    order: int
    size: int
    eos: int
    vocabulary: str
    unigrams: np.ndarray
    back_off1: np.ndarray
    keys2: np.ndarray
    ratios2: np.ndarray
    back_off2: np.ndarray
    keys3: np.ndarray
    ratios3: np.ndarray
    weights: Weights = field(default_factory=Weights)
    dropped: int = 0

    def bigrams(self, before: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Looks up tokens behind one token. Arrays broadcast; ids from 0 to V - 1.

        Returns:
            Ratios in 1/1024, int16, and the index of each bigram, -1 where it has no entry, int64.
        """
        index = self._of_bigrams.find(before * self.size + token)
        return np.where(index < 0, self.back_off1[before], values_at(self.ratios2, index)), index

    def trigrams(self, context: np.ndarray, token: np.ndarray, ratio: np.ndarray) -> np.ndarray:
        """Looks up C tokens behind W contexts of two tokens each, for K last tokens of each of B rows.

        Args:
            context: index of the bigram before the token, -1: none, (B, K, W).
            token: (B, C).
            ratio: of the bigram that ends in the token, in 1/1024, (B, K, C).
        Returns:
            Ratios in 1/1024, int32, (B, K, W, C).
        """
        found = np.empty((*context.shape, token.shape[1]), dtype=np.int32)
        found[:] = ratio[:, :, None]
        row, last, path = (context >= 0).nonzero()
        if len(row):
            context = context[row, last, path]
            index = self._of_trigrams.find(context[:, None] * self.size + token[row])
            shorter = ratio[row, last] + self.back_off2[context].astype(np.int32)[:, None]
            found[row, last, path] = np.where(index < 0, shorter, values_at(self.ratios3, index))
        return found

    def log_probs(self, context: Sequence[int]) -> np.ndarray:
        """log p(y | context) of every y, float64 (V); of a context the last order - 1 tokens count."""
        everything = np.arange(self.size)
        last = np.array(context, dtype=np.int64)[-(self.order - 1) :]
        ratio = np.zeros(self.size)
        if len(last):
            ratio, _ = self.bigrams(last[-1:], everything)
        if len(last) > 1:
            _, index = self.bigrams(last[:1], last[1:])
            ratio = self.trigrams(index[:, None, None], everything[None], ratio[None, None])[0, 0, 0]
        return self.unigrams + ratio / UNIT

    @cached_property
    def _of_bigrams(self) -> Keys:
        return Keys(self.keys2)

    @cached_property
    def _of_trigrams(self) -> Keys:
        return Keys(self.keys3)

    def save(self, path: StrPath) -> None:
        """Writes the file: the first line names version and checksum, the second is JSON, then the arrays follow."""
        arrays = [np.ascontiguousarray(getattr(self, name), dtype) for name, dtype in dtypes(self.size).items()]
        head = {
            "order": self.order,
            "size": self.size,
            "eos": self.eos,
            "vocabulary": self.vocabulary,
            "weights": asdict(self.weights),
            "dropped": self.dropped,
            "lengths": [len(array) for array in arrays],
        }
        parts = [json.dumps(head).encode() + b"\n"]
        for array in arrays:
            parts += [array.tobytes(), b"\0" * (-array.nbytes % _MARGIN)]
        # blanks behind the JSON, so that the arrays are aligned in the file
        first = len(_MAGIC) + len(f"{_VERSION} ") + 64 + 1
        parts[0] = parts[0][:-1] + b" " * (-(first + len(parts[0])) % _MARGIN) + b"\n"
        digest = hashlib.sha256(b"".join(parts)).hexdigest()
        with replacing(path) as file:
            file.write(_MAGIC + f"{_VERSION} {digest}\n".encode())
            file.writelines(parts)

    @classmethod
    def load(cls, path: StrPath, pieces: Sequence[str] | None = None) -> "Link":
        """Maps a file into memory; processes share it.

        Args:
            pieces: the vocabulary that the link must be of; None: any.

        Raises:
            OSError: no such file, or it cannot be read.
            ValueError: it is no link, damaged, of another version or of another vocabulary; one line.
        """
        with open(path, "rb") as file:
            first, second = file.readline(200), file.readline(10_000)
            start = file.tell()
        version, _, digest = first.removeprefix(_MAGIC).rstrip(b"\n").partition(b" ")
        if not first.startswith(_MAGIC) or not version.isdigit():
            raise UserError(f"{path}: is no link; make one with bang link")
        if int(version) != _VERSION:
            raise UserError(
                f"{path}: a link of format {int(version)}, and this version of bang reads format {_VERSION}: "
                "make it again with bang link"
            )
        data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))  # a plain array, mapped: indexing a memmap is slow
        if hashlib.sha256(data.data[len(first) :]).hexdigest().encode() != digest:
            raise UserError(
                f"{path}: damaged or truncated (its checksum does not match): copy it again, or make it again with bang link"
            )
        try:
            head = json.loads(second)
            order, size, lengths = head["order"], head["size"], head["lengths"]
            arrays = {}
            for (name, dtype), length in zip(dtypes(size).items(), lengths, strict=True):
                stop = start + length * dtype.itemsize
                arrays[name] = data[start:stop].view(dtype)
                start = stop + -stop % _MARGIN
            weights, eos = Weights(**head["weights"]), head["eos"]
            found = cls(order, size, eos, head["vocabulary"], **arrays, weights=weights, dropped=head["dropped"])
            found._check()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path}: is no link that this version of bang reads ({error}): make it again with bang link"
            ) from None
        if pieces is not None and found.vocabulary != vocabulary_of(pieces):
            raise UserError(
                f"{path}: a link of another vocabulary ({found.size} pieces, the model has {len(pieces)}): "
                "make one with the model's own, with bang link"
            )
        return found

    def _check(self) -> None:
        """Refuses what would be looked up out of bounds; what is out of order is just not found."""
        if self.order not in (2, 3) or not 0 <= self.eos < self.size:
            raise UserError("impossible order or eos")
        n, m = len(self.keys2), len(self.keys3)
        if [len(self.unigrams), len(self.back_off1), len(self.ratios2), len(self.ratios3)] != [self.size, self.size, n, m]:
            raise UserError("arrays of other lengths")
        if len(self.back_off2) != (n if self.order == 3 else 0) or self.order == 2 and m:
            raise UserError("arrays of another order")


def find_link(folder: StrPath, pieces: Sequence[str], link: StrPath | None = None) -> Link | None:
    """The link of a model.

    Args:
        folder: of the model; its `LINK_FILE` serves, if it has one.
        pieces: the model's vocabulary.
        link: a file to take in its place; `NO_LINK`: none.

    Raises:
        OSError, ValueError: see `Link.load`.
    """
    if link is not None:
        return None if link == NO_LINK else Link.load(link, pieces)
    path = os.path.join(folder, LINK_FILE)
    return Link.load(path, pieces) if os.path.exists(path) else None


def dtypes(size: int) -> dict[str, np.dtype]:
    """The arrays of a link, in the order of the file."""
    key = "<u4" if size <= _MOST_OF_32_BITS else "<u8"
    kinds = {
        "unigrams": "<f4",
        "back_off1": "<i2",
        "keys2": key,
        "ratios2": "<i2",
        "back_off2": "<i2",
        "keys3": "<u8",
        "ratios3": "<i2",
    }
    return {name: np.dtype(kind) for name, kind in kinds.items()}
