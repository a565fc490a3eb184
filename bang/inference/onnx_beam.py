"""Beam search in numpy, with fairseq's rules and scores.

Shapes: A sentences, W beams of each, B = A * W rows, n candidates of a row.
"""

from typing import NamedTuple

import numpy as np

from ..decoding.candidates import likeliest
from ..decoding.ngrams import completing_tokens
from ..decoding.passes import Pass
from .onnx_session import Candidates, OnnxSession, columns


class Found(NamedTuple):
    """A hypothesis: ids with its eos, log-probability of each, and the score that it is ranked by."""

    tokens: np.ndarray
    scores: np.ndarray
    score: float


def search(
    session: OnnxSession,
    beam: int,
    least: np.ndarray,
    limit: np.ndarray,
    specials: tuple[int, int, int],
    len_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    prefix: np.ndarray | None = None,
) -> list[list[Found]]:
    """The hypotheses of each sentence of a batch, best first.

    As in fairseq a sentence is done once `beam` of its hypotheses have ended among the first `beam`
    candidates of a step, or at its limit.

    Args:
        session: the encoded batch.
        beam: W.
        least, limit: tokens before which no eos may come, and after which it must, (A).
        specials: ids of pad, unk and eos.
        len_penalty: a score is the sum of log-probabilities, eos included, over length to this power.
        no_repeat_ngram: no n-gram of so many tokens comes twice; 0: it may.
        prefix: tokens that the texts begin with, padded on the right, (A, any); None: free.
    """
    eos = specials[2]
    given = np.full((len(limit), 0), -1) if prefix is None else np.where(prefix == specials[0], -1, prefix)
    given = np.where(np.arange(given.shape[1]) < limit[:, None], given, -1)  # it ends at the limit
    sentence = np.arange(len(limit))  # those still searched
    session.keep(np.repeat(sentence, beam))
    tokens = np.full((len(limit) * beam, 1), eos)  # (B, step + 1)
    totals = np.zeros((len(limit) * beam, 1), dtype=np.float32)  # sums up to each token, the start symbol's 0 in front
    alive = np.ones((len(limit), beam), dtype=bool)  # places of a step whose eos counts
    ended: list[list[Found]] = [[] for _ in limit]
    step = 0
    while len(sentence):
        rows = len(tokens)
        first = np.full(rows, step)
        # enough to fill all places of a step, whatever is forbidden
        count = 2 * beam + (step if no_repeat_ngram else 0)
        next_token = Pass(tokens[:, step:], first, first[:, None], (1,), 0)
        forced = np.repeat(given[sentence, step], beam) if step < given.shape[1] else np.full(rows, -1)
        found = _candidates(session, next_token, forced, count, specials)
        ids, log_probs = (x[:, 0] for x in columns(found, specials))
        _forbid(ids, log_probs, tokens, forced, eos, np.repeat(least, beam), np.repeat(limit, beam), no_repeat_ngram)
        sums = totals[:, step, None] + log_probs  # (B, n)
        if not step:  # the beams of a sentence are all alike yet
            sums[np.arange(rows) % beam > 0] = -np.inf
        flat = sums.reshape(len(sentence), -1)
        places = np.argsort(-flat, axis=1, kind="stable")[:, : 2 * beam]  # best first, (A, 2W)
        sums = np.take_along_axis(flat, places, axis=1)
        source_row = places // ids.shape[1] + np.arange(len(sentence))[:, None] * beam
        chosen = ids.reshape(len(sentence), -1)[np.arange(len(sentence))[:, None], places]
        ends = (chosen == eos) & (sums > -np.inf)
        counted = ends[:, :beam] & alive
        for a, place in zip(*counted.nonzero()):
            if len(ended[sentence[a]]) < beam:
                row, total = source_row[a, place], sums[a, place]
                steps = np.diff(np.append(totals[row], total))
                ended[sentence[a]].append(Found(np.append(tokens[row, 1:], eos), steps, total / (step + 1) ** len_penalty))
        # the first W candidates that go on; an eos that was not counted goes on as dead weight, as in fairseq
        stops = ends.copy()
        stops[:, :beam] |= ~alive
        order = np.argsort(stops, axis=1, kind="stable")[:, :beam]
        alive = ~np.take_along_axis(stops, order, axis=1)
        over = np.array([len(ended[s]) == beam for s in sentence]) | (limit <= step)
        stay = (~over).nonzero()[0]
        parents = np.take_along_axis(source_row, order, axis=1)[stay].ravel()
        tokens = np.concatenate([tokens[parents], np.take_along_axis(chosen, order, axis=1)[stay].reshape(-1, 1)], axis=1)
        totals = np.concatenate([totals[parents], np.take_along_axis(sums, order, axis=1)[stay].reshape(-1, 1)], axis=1)
        if len(stay):
            session.keep(parents, np.repeat(stay, beam) * beam if over.any() else stay[:0])
        sentence, least, limit, alive = sentence[stay], least[stay], limit[stay], alive[stay]
        step += 1
    return [sorted(of_sentence, key=lambda hypothesis: -hypothesis.score) for of_sentence in ended]


def _candidates(session: OnnxSession, step: Pass, forced: np.ndarray, count: int, specials: tuple[int, int, int]) -> Candidates:
    """The likeliest tokens of the next slot of each row; the forced one of a row is the first of them."""
    if (forced < 0).all():
        return session.candidates(step, count)
    (log_probs,) = session.forward(step._replace(forced=forced[:, None]))  # of the whole vocabulary, (B, 1, V)
    tokens, scores = likeliest(log_probs, min(count + len(specials), log_probs.shape[2]))
    rows = (forced >= 0).nonzero()[0]
    tokens[rows, 0, 0], scores[rows, 0, 0] = forced[rows], log_probs[rows, 0, forced[rows]]
    return Candidates(log_probs[:, :, list(specials)], tokens, scores)


def _forbid(ids, log_probs, tokens, forced, eos: int, least, limit, no_repeat_ngram: int) -> None:
    """Sets what may not come next to -inf: pad, eos too early, all but eos at the limit, repeated n-grams.

    Where a token is forced it alone may come.

    Args:
        ids, log_probs: candidates in the order of `onnx_session.columns`, (B, n).
        tokens: hypotheses so far, the start symbol first, (B, step + 1).
        forced: token of each row, -1: free, (B).
        least, limit: (B).
    """
    step = tokens.shape[1] - 1
    log_probs[:, 0] = -np.inf
    log_probs[limit <= step] = np.where(ids == eos, log_probs, -np.inf)[limit <= step]
    log_probs[(step < np.minimum(least, limit)), 2] = -np.inf
    if no_repeat_ngram:
        for row, so_far in enumerate(tokens):
            if forced[row] < 0:
                log_probs[row, np.isin(ids[row], completing_tokens(so_far, no_repeat_ngram))] = -np.inf
    for row in (forced >= 0).nonzero()[0]:
        place = (ids[row] == forced[row]).nonzero()[0][0]  # an unknown one is among the special ones too
        log_probs[row] = np.where(np.arange(ids.shape[1]) == place, log_probs[row], -np.inf)
