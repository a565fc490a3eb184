"""The link: what a token's neighbours say of it, an n-gram model of target word pieces in one memory-mapped file.

KenLM was looked at: it is C++ to compile (no wheels), its models are estimated by a program that the Python package
lacks, and Python asks it one token at a time. A search asks for thousands at once: sorted keys and `searchsorted` do.

Witten-Bell smoothing, interpolated: p(y | h) = (c(hy) + T(h) p(y | h')) / (c(h) + T(h)), T(h) the number of distinct
tokens seen behind h, h' the context without its first token; below it all, each of V tokens alike. Kept is the
*ratio* log(p(y | h) / p(y)), which is what the search adds: dividing by p(y) keeps frequent tokens from winning for
being frequent. An n-gram without an entry has the ratio of the shorter one plus its context's *back-off*, so that
the probabilities behind a context sum to one, whatever a threshold has dropped.

A text begins with eos as a context and ends with eos as a token.

Shapes: V vocabulary, n bigrams, m trigrams with entries.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property

import numpy as np

from ..errors import UserError
from ..text.files import StrPath, replacing

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
        return np.where(index < 0, self.back_off1[before], _at(self.ratios2, index)), index

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
            found[row, last, path] = np.where(index < 0, shorter, _at(self.ratios3, index))
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
    def _of_bigrams(self) -> "Keys":
        return Keys(self.keys2)

    @cached_property
    def _of_trigrams(self) -> "Keys":
        return Keys(self.keys3)

    def save(self, path: StrPath) -> None:
        """Writes the file: the first line names version and checksum, the second is JSON, then the arrays follow."""
        arrays = [np.ascontiguousarray(getattr(self, name), dtype) for name, dtype in _dtypes(self.size).items()]
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
            for (name, dtype), length in zip(_dtypes(size).items(), lengths, strict=True):
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


def make_link(
    texts: Iterable[Sequence[int]],
    pieces: Sequence[str],
    eos: int,
    order: int = 3,
    threshold: int = 1,
    others: Iterable[Sequence[int]] = (),
    share: float = 0.1,
    weights: Weights | None = None,
) -> Link:
    """Counts n-grams and makes a link of them.

    Args:
        texts: target texts as ids, without eos.
        pieces: the vocabulary, in the order of its ids.
        order: 2 or 3.
        threshold: n-grams seen less often have no entry of their own; 1: all have.
        others: more texts, sources for instance.
        share: what an n-gram of these counts.
        weights: None: the defaults.

    Raises:
        ValueError: there is no text, an id is outside the vocabulary, or an option is out of range.
    """
    size = len(pieces)
    if order not in (2, 3):
        raise UserError(f"order={order}: a link is of order 2 or 3")
    if not 0 < share <= 1:
        raise UserError(f"share={share}: give a number above 0, 1 at most")
    ids, worth, is_start = _joined(texts, others, share, eos)
    if not len(ids):
        raise UserError("no text to make a link of")
    outside = ids[(ids < 0) | (ids >= size)]
    if len(outside):
        raise UserError(f"id {outside[0]} is outside the vocabulary of {size} pieces")
    p1 = _unigrams(ids[~is_start], worth[~is_start], size)

    second = np.flatnonzero(~is_start)  # each has a token before it
    keys2, where, c2 = _counted(ids[second - 1] * size + ids[second], worth[second])
    before, token = keys2 // size, keys2 % size
    p2 = _witten_bell(c2, before, p1[token], size)
    kept = c2 >= threshold
    dropped = int((~kept).sum())
    keys2, p2, before, token = keys2[kept], p2[kept], before[kept], token[kept]
    back_off1 = _back_off(p2, p1[token], before, size)
    arrays = {"back_off2": np.zeros(0), "keys3": np.zeros(0), "ratios3": np.zeros(0)}
    if order == 3:
        number = np.where(kept, np.cumsum(kept) - 1, -1)  # of a bigram among the kept ones
        at = np.full(len(ids), -1)
        at[second] = number[where]
        third = second[~is_start[second - 1]]
        third = third[at[third - 1] >= 0]
        keys3, _, c3 = _counted(at[third - 1] * size + ids[third], worth[third])
        context, last = keys3 // size, keys3 % size
        index = Keys(keys2).find(token[context] * size + last)
        middle = token[context]
        shorter = np.where(index < 0, np.exp(back_off1[middle]) * p1[last], _at(p2, index))
        p3 = _witten_bell(c3, context, shorter, len(keys2))
        kept = c3 >= threshold
        dropped += int((~kept).sum())
        arrays = {
            "back_off2": _back_off(p3[kept], shorter[kept], context[kept], len(keys2)),
            "keys3": keys3[kept],
            "ratios3": np.log(p3[kept] / p1[last[kept]]),
        }
    arrays |= {"unigrams": np.log(p1), "back_off1": back_off1, "keys2": keys2, "ratios2": np.log(p2 / p1[token])}
    whole = {name: _in_units(x) if dtype == np.int16 else arrays[name].astype(dtype)
             for name, dtype in _dtypes(size).items() for x in [arrays[name]]}  # fmt: skip
    return Link(order, size, eos, vocabulary_of(pieces), **whole, weights=weights or Weights(), dropped=dropped)


def _dtypes(size: int) -> dict[str, np.dtype]:
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


def _joined(texts, others, share: float, eos: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All texts in one row, each with eos before and behind it; what each token counts; which are starts, never predicted."""
    parts, worth = [], []
    for of_kind, count in ((texts, 1.0), (others, share)):
        for text in of_kind:
            text = np.asarray(text, dtype=np.int64)
            text = text[text != eos]
            if len(text):
                parts.append(np.concatenate([[eos], text, [eos]]))
                worth.append(count)
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    is_start = np.zeros(len(ids), dtype=bool)
    is_start[np.cumsum(lengths) - lengths] = True
    return ids, np.repeat(worth, lengths), is_start


def _counted(keys: np.ndarray, worth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys, sorted; the number of each key's among them; what each counts."""
    distinct, where = np.unique(keys, return_inverse=True)
    return distinct, where, np.bincount(where, worth, len(distinct))


def _unigrams(tokens: np.ndarray, worth: np.ndarray, size: int) -> np.ndarray:
    counts = np.bincount(tokens, worth, size)
    kinds = np.count_nonzero(counts)
    return (counts + kinds / size) / (counts.sum() + kinds)


def _witten_bell(counts: np.ndarray, context: np.ndarray, shorter: np.ndarray, contexts: int) -> np.ndarray:
    """p of each n-gram from its count, its context's number, and p of the n-gram without its first token."""
    total = np.bincount(context, counts, contexts)[context]
    # a token that counts a tenth is a tenth of a kind
    kinds = np.bincount(context, np.minimum(counts, 1), contexts)[context]
    return (counts + kinds * shorter) / (total + kinds)


def _back_off(p: np.ndarray, shorter: np.ndarray, context: np.ndarray, contexts: int) -> np.ndarray:
    """Log of what a context leaves to tokens without an entry, over what these have with a shorter context."""
    left = 1 - np.bincount(context, p, contexts)
    of = 1 - np.bincount(context, shorter, contexts)
    return np.log(np.maximum(left, 1e-12) / np.maximum(of, 1e-12))


def _in_units(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x * UNIT), -(1 << 15), (1 << 15) - 1).astype(np.int16)


class Keys:
    """Sorted keys to be looked up in bulk.

    Most pairs of candidates are no n-gram. A table of hashes, one byte each, says so at a tenth of a binary search's time.

    Args:
        keys: non-negative integers, sorted.
    """

    def __init__(self, keys: np.ndarray):
        self._keys = keys
        bits = min(max(8 * len(keys), 1 << 8).bit_length(), 23)
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, dtype=bool)
        self._maybe[self._hash(keys)] = True

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Index of each wanted key, -1 where it is not there, int64."""
        shape, wanted = wanted.shape, wanted.reshape(-1)
        index = np.full(len(wanted), -1)
        likely = self._maybe[self._hash(wanted)].nonzero()[0]
        if len(likely):
            key = wanted[likely].astype(self._keys.dtype)  # of another type searchsorted would copy all keys
            at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            index[likely] = np.where(self._keys[at] == key, at, -1)
        return index.reshape(shape)

    def _hash(self, keys: np.ndarray) -> np.ndarray:
        return (keys.astype(np.uint64) * _GOLDEN >> self._shift).view(np.int64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Values at indices, anything at -1."""
    return values[index] if len(values) else np.zeros(index.shape, dtype=values.dtype)
