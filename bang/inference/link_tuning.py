"""A link's weights, chosen on validation pairs: one NAR pass over the sources, then searches through what it gave."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..decoding.candidates import Slots
from ..decoding.link import Link, Weights
from ..decoding.search import Rules, best_paths
from ..decoding.source_pairs import SourcePairs
from ..decoding.tune import tune
from ..errors import UserError
from ..modes import NAR
from ..text.cleanup import to_text
from ..text.evaluate import evaluate
from .api import Bang
from .engine import BATCH_TOKENS, batches, padded

_LEAST_SLOTS, _MOST_SLOTS = 16, 128
_SPECIALS = "[PAD]", "[UNK]", "[SEP]"


def tuned(
    link: Link,
    model: Bang,
    sources: Sequence[str],
    targets: Sequence[str],
    progress: Callable[[Weights, float], None] = lambda weights, score: None,
) -> Link:
    """The link with the weights whose NAR texts score best: ROUGE-L + ROUGE-2 / 2.

    Args:
        model: that the link is for.
        sources, targets: validation pairs, raw; sources are cut to what the model takes.
        progress: is called with each trial and its score.

    Raises:
        ValueError: all sources are empty, or the model has no NAR.
    """
    assert len(sources) == len(targets)
    if NAR not in model.modes:
        raise UserError(f"the model has {', '.join(model.modes)} and no {NAR}, which the weights are chosen by")
    ids = [
        model.tokenizer.encode(text, number, truncate=True).ids.astype(np.int64) for number, text in enumerate(sources, start=1)
    ]
    parts = list(batches([len(source) for source in ids], BATCH_TOKENS))
    if not parts:
        raise UserError("no source to tune on: all are empty")
    lengths = [len(model.tokenizer.word_pieces(text).split()) for text in targets]
    slots = 1 + min(max(_LEAST_SLOTS, int(1.5 * np.percentile(lengths, 95))), _MOST_SLOTS)
    count = min(link.weights.candidates, link.size)
    canvases = [model.engine.canvas([ids[index] for index in part], slots, count) for part in parts]
    specials = [model.pieces.index(piece) for piece in _SPECIALS]
    found = [(part, _pairs(link, [ids[index] for index in part], specials), canvas) for part, canvas in zip(parts, canvases)]

    def score(weights: Weights) -> float:
        texts = [""] * len(sources)
        for part, pairs, canvas in found:
            for index, tokens in zip(part, _texts(link, weights, pairs, canvas, specials)):
                texts[index] = to_text(" ".join(model.pieces[token] for token in tokens))
        rouge = evaluate({"texts": texts}, targets, ["rouge"])["systems"]["texts"]
        both = rouge["ROUGE-L"] + rouge["ROUGE-2"] / 2
        progress(weights, both)
        return both

    best, _ = tune(score, link.weights)
    return replace(link, weights=best)


def _pairs(link: Link, sources: list[np.ndarray], specials: Sequence[int]) -> SourcePairs:
    """What all trials ask of the sources; `specials` are the ids of pad, unk and eos."""
    pad, _, eos = specials
    return SourcePairs(padded(sources, pad), link.size, (pad, eos))


def _texts(link: Link, weights: Weights, pairs: SourcePairs, canvas: Slots, specials: Sequence[int]) -> list[list[int]]:
    """The best path's tokens of each row."""
    pad, unk, eos = specials
    ones = np.ones(len(canvas.end), dtype=np.int64)
    rules = Rules(ones, ones * (canvas.end.shape[1] - 1), pad, eos, unk)
    paths = best_paths(link, pairs, ones[:, None] * eos, ones, rules, canvas, weights=weights)
    return [tokens[: length - 1].tolist() for tokens, length in zip(paths.tokens[:, 0], paths.length[:, 0])]
