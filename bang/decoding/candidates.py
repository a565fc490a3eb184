"""What a pass says of its slots: the likeliest tokens of each.

Shapes: B rows (texts), n slots of a pass, K candidates of a slot, V vocabulary.
"""

from typing import NamedTuple

import numpy as np


class Slots(NamedTuple):
    """What a pass says of its slots.

    Attributes:
        tokens: the likeliest of each slot, in any order, (B, n, K). eos and pad among them are passed over.
        log_probs: the network's, of these, (B, n, K); -inf: no candidate.
        end: the network's of eos, (B, n).
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    end: np.ndarray


def likeliest(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest scores along the last dimension, exactly: of equal ones those of lower index; highest first.

    Several times as fast as `argpartition`, which moves all V: the `count`-th highest of the maxima of strided blocks
    is a bound below which nothing is wanted, and blocks that do not reach it are not looked at.

    Args:
        scores: (..., V), float32.
        count: K, at most V.
    Returns:
        Indices, int64, and scores, (..., K).
    """
    rows = scores.reshape(-1, scores.shape[-1])
    parts = [_likeliest(rows[start : start + _AT_ONCE], count) for start in range(0, len(rows), _AT_ONCE)]
    index, found = (np.concatenate(x).reshape(*scores.shape[:-1], count) for x in zip(*parts))
    return index, found


_AT_ONCE = 16  # rows: few enough for the cache


_BLOCK = 64


def _likeliest(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """As `likeliest`, of scores (R, V)."""
    size = scores.shape[1]
    blocks = size // _BLOCK
    if blocks < count:
        row, index = np.divmod(np.arange(scores.size), size)
    else:
        # element i is in block i % blocks: the maxima are then element-wise, of whole vectors
        highest = scores[:, : blocks * _BLOCK].reshape(len(scores), _BLOCK, blocks).max(1)
        bound = np.partition(highest, blocks - count, axis=1)[:, blocks - count, None]
        row, block = (highest >= bound).nonzero()
        row, index = np.repeat(row, _BLOCK), (block[:, None] + blocks * np.arange(_BLOCK)).reshape(-1)
        reached = scores[row, index] >= bound[row, 0]
        of_tail, tail = (scores[:, blocks * _BLOCK :] >= bound).nonzero()
        row = np.concatenate([row[reached], of_tail])
        index = np.concatenate([index[reached], tail + blocks * _BLOCK])
    found = scores[row, index]
    order = np.lexsort((index, -found, row))
    first = np.searchsorted(row[order], np.arange(len(scores)))
    best = order[first[:, None] + np.arange(count)]
    return index[best], found[best]
