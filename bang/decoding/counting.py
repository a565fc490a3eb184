"""Counts n-grams and makes a link of them.

Witten-Bell smoothing, interpolated: p(y | h) = (c(hy) + T(h) p(y | h')) / (c(h) + T(h)), T(h) the number of distinct
tokens seen behind h, h' the context without its first token; below it all, each of V tokens alike.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import UserError
from .keys import Keys, values_at
from .link import UNIT, Link, Weights, dtypes, vocabulary_of


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
        shorter = np.where(index < 0, np.exp(back_off1[middle]) * p1[last], values_at(p2, index))
        p3 = _witten_bell(c3, context, shorter, len(keys2))
        kept = c3 >= threshold
        dropped += int((~kept).sum())
        arrays = {
            "back_off2": _back_off(p3[kept], shorter[kept], context[kept], len(keys2)),
            "keys3": keys3[kept],
            "ratios3": np.log(p3[kept] / p1[last[kept]]),
        }
    arrays |= {"unigrams": np.log(p1), "back_off1": back_off1, "keys2": keys2, "ratios2": np.log(p2 / p1[token])}
    for name, dtype in dtypes(size).items():
        arrays[name] = _in_units(arrays[name]) if dtype == np.int16 else arrays[name].astype(dtype)
    return Link(order, size, eos, vocabulary_of(pieces), **arrays, weights=weights or Weights(), dropped=dropped)


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
