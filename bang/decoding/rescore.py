"""AR picks one of the best paths of a NAR pass, in one more pass.

Slots of one pass do not see each other's tokens, and a link sees two or three at a time. AR sees the text before each token, and
scores a known text in one pass.

Shapes: C candidates of all rows, T tokens of the longest, eos included.
"""

from collections.abc import Callable

import numpy as np

from .loop import Text
from .passes import Pass
from .session import BaseSession

_AT_ONCE = 4096
"""Tokens scored together, padding included: with 30,522 word pieces their log-probabilities take half a GiB."""


def best_for_ar(
    session: BaseSession, candidates: list[list[Text]], pad: int, eos: int, score: Callable[[np.ndarray], float]
) -> list[Text]:
    """The candidate of each row with the best AR score, of equal ones the first; its scores are AR's.

    Args:
        session: the batch's, before any pass (`BaseSession.fork`).
        candidates: of each row, at least one.
        score: computes a text's score from AR's log-probabilities of its tokens.
    """
    rows = np.repeat(np.arange(len(candidates)), [len(of_row) for of_row in candidates])
    texts = [text for of_row in candidates for text in of_row]
    width = max(len(text.tokens) for text in texts)
    part = max(1, _AT_ONCE // width)
    scores: list[np.ndarray] = []
    for start in range(0, len(texts), part):
        these = slice(start, start + part)
        scores += _scored(session, rows[these], texts[these], pad, eos)
    rescored = iter(text._replace(scores=found) for text, found in zip(texts, scores))
    return [max([next(rescored) for _ in of_row], key=lambda text: score(text.scores)) for of_row in candidates]


def _scored(session: BaseSession, rows: np.ndarray, texts: list[Text], pad: int, eos: int) -> list[np.ndarray]:
    """AR's log-probabilities of each text's tokens."""
    width = max(len(text.tokens) for text in texts)
    tokens, forced = np.full((len(texts), 1 + width), pad), np.full((len(texts), width), -1)
    tokens[:, 0] = eos
    for row, text in enumerate(texts):
        forced[row, : len(text.tokens)] = tokens[row, 1 : 1 + len(text.tokens)] = text.tokens
    nothing = np.zeros(len(texts), dtype=np.int64)
    step = Pass(tokens[:, :width], nothing, nothing[:, None] + np.arange(width), (1,) * width, 0, forced, ends=False)
    found = session.fork(rows).scores(step)
    return [scores[: len(text.tokens)] for scores, text in zip(found, texts)]
