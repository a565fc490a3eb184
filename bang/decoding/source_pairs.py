"""The pairs of tokens that stand side by side in sources."""

import copy

import numpy as np

from .keys import Keys


class SourcePairs:
    """The pairs of tokens that stand side by side in the sources of a batch: made once, however many searches ask.

    Args:
        source: ids, (B, S).
        size: V.
        passed_over: ids of which no pair is made: pad and eos.
    """

    def __init__(self, source: np.ndarray, size: int, passed_over: tuple[int, int]):
        self._size = size
        self._row = np.arange(len(source))  # keeps the pairs of different rows apart
        first, second = source[:, :-1].astype(np.int64), source[:, 1:]
        key = self._of_row(first * size + second)
        pad, eos = passed_over
        self._keys = Keys(np.sort(key[(first != pad) & (first != eos) & (second != pad) & (second != eos)]))

    def have(self, pair: np.ndarray) -> np.ndarray:
        """Which pairs, first token * V + second, (B, ...), the row's source has."""
        return self._keys.find(self._of_row(pair)) >= 0

    def of(self, rows: np.ndarray) -> "SourcePairs":
        """Those of these rows, (B'), in this order."""
        found = copy.copy(self)
        found._row = self._row[rows]
        return found

    def _of_row(self, pair: np.ndarray) -> np.ndarray:
        return pair + self._row.reshape(-1, *[1] * (pair.ndim - 1)) * self._size**2
