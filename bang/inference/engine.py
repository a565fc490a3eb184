"""What `Bang` asks of an engine and gets from it: batches of ids, hypotheses."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..decoding.candidates import Slots
from ..decoding.link import Link
from ..options import Options
from ..trained_modes import Blocks

BATCH_TOKENS = 2048
"""Padded source tokens of a batch, by default: enough to fill two CPU cores; a GPU takes more."""


_LEAST_WIDTH = 32  # what a row counts at least: short sources have targets too


class Hypothesis(NamedTuple):
    """What an engine generates of one source.

    Attributes:
        tokens: ids, without the eos that ends the text.
        score: log-probability, normalised by length.
        positional_scores: log-probability of each token, and of the eos after them.
        passes: the decoder's pass that gave each token, and the eos after them, counted from 1.
        others: the next best hypotheses, best first.
        path_score: of the path that a link chose (`search`), which positional_scores are a part of; None: none did.
    """

    tokens: list[int]
    score: float
    positional_scores: list[float]
    passes: list[int]
    others: Sequence["Hypothesis"] = ()
    path_score: float | None = None


class Engine(Protocol):
    """A loaded network.

    Attributes:
        modes: names of the modes that it can run.
        shares: how much of the training each mode had, {mode: share}; None where unknown.
        blocks: those of the training; None where unknown.
        max_source_positions: longest source that it takes, eos included.
        link: chooses the texts of NAR and semi-NAR; None: there is none.
    """

    modes: tuple[str, ...]
    shares: dict[str, float] | None
    blocks: Blocks | None
    max_source_positions: int
    link: Link | None

    def generate(
        self, sources: list[np.ndarray], options: Options, prefixes: Sequence[np.ndarray] | None = None
    ) -> list[Hypothesis]:
        """Generates for a batch; may be called from several threads.

        Args:
            sources: ids, none of them pad, eos last, int64, each (S,), no longer than `max_source_positions`.
            prefixes: ids that each text begins with, int64, each (any,), without eos; None: free.
        Raises:
            ValueError: an option does not serve.
        """

    def stream(self, source: np.ndarray, options: Options, prefix: np.ndarray | None = None) -> Iterator[Hypothesis]:
        """What is kept of the text of one source after each pass of the decoder; the last one is whole."""

    def canvas(self, sources: list[np.ndarray], slots: int, count: int) -> Slots:
        """What one NAR pass says of its slots, at most so many: the `count` likeliest tokens of each.

        Args:
            sources: as those of `generate`.
        """


def hypothesis(
    tokens: list[int], score: float, scores: np.ndarray, passes: np.ndarray, eos: int, path_score: float | None = None
) -> Hypothesis:
    """Of a text's tokens, with or without the eos at their end."""
    kept = tokens[:-1] if tokens and tokens[-1] == eos else tokens
    return Hypothesis(kept, score, scores.tolist(), passes.tolist(), path_score=path_score)


def ranked(found: Sequence[Hypothesis]) -> Hypothesis:
    """The best of the hypotheses of one source, the others behind it."""
    best, *others = sorted(found, key=lambda one: -one.score)
    return best._replace(others=others)


def padded(texts: Sequence[np.ndarray], pad: int) -> np.ndarray:
    """Ids of texts of several lengths as one array, padded on the right, int64, (B, longest)."""
    found = np.full((len(texts), max(map(len, texts))), pad)
    for row, ids in enumerate(texts):
        found[row, : len(ids)] = ids
    return found


def batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sources of like length, longest first, as many as fit; none of an empty source (its eos alone)."""
    order = sorted((index for index, length in enumerate(lengths) if length > 1), key=lambda index: -lengths[index])
    while order:
        rows = max(1, batch_tokens // max(lengths[order[0]], _LEAST_WIDTH))
        yield order[:rows]
        order = order[rows:]
