"""N-gram blocking: which tokens would repeat an n-gram."""

import numpy as np


def completing_tokens(text: np.ndarray, size: int) -> np.ndarray:
    """Tokens that would complete an n-gram which the text has already.

    Args:
        text: ids so far, the start symbol first, (T).
        size: tokens of an n-gram, at least 1.

    Returns:
        Their ids, maybe several times, (any).
    """
    if len(text) < size:
        return text[:0]
    ngrams = np.lib.stride_tricks.sliding_window_view(text, size)
    repeats = (ngrams[:, :-1] == text[len(text) + 1 - size :]).all(1)
    if size == 1:
        repeats[0] = False  # the start symbol is eos, which must stay possible
    return ngrams[repeats, -1]
