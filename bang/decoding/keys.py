"""Sorted keys, looked up in bulk."""

import numpy as np


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


def values_at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Values at indices, anything at -1."""
    return values[index] if len(values) else np.zeros(index.shape, dtype=values.dtype)
