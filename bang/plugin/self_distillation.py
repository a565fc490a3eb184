"""Self-distillation within training: beside the reference of each source, what the model itself writes for it now.

References say the same thing in many ways, and slots that do not see each other's tokens mix the ways up. What the model's own
AR writes is one of them, easier to learn (sequence-level distillation, Kim and Rush 2016). `bang distill` lets a finished
teacher write all targets before a training; here the model that learns is its own teacher, a batch at a time. Of several
texts the one nearest to the reference is taken, so the teacher is better than what decodes.

Shapes: B sentences, N texts drawn of each, T tokens.
"""

import numpy as np
import torch

from .. import modes
from ..decoding import loop
from ..decoding.choice import Bounds, Chooser
from ..generation.session import TorchSession, encode
from ..text.collect import make_closest
from .data import targets_from

TEMPERATURE, AMONG = 0.5, 20
"""Of the draws, and the tokens they are drawn among: near what the model would choose, without what label smoothing spreads."""

LONGER = 6
"""Tokens that a text may have beyond its reference."""


def write(model, sample: dict, number: int, seed: int, dictionary) -> dict:
    """What a model writes in AR for the sources of a batch.

    It follows from the model, the seed and the sentence's id alone.

    Args:
        model: a `BangModel`; it is left in the mode, training or evaluation, that it was in.
        sample: pairs. number: N; 1: the most probable tokens, nothing is drawn.
        seed: of the draws.
    Returns:
        The batch with these texts in place of the references: `target` (B, T), `net_input`, `ntokens` and `targets_from`.
    """
    while hasattr(model, "module"):  # what trains on several GPUs is wrapped
        model = model.module
    pad, eos = dictionary.pad(), dictionary.eos()
    net_input, references = sample["net_input"], sample["target"].cpu().numpy()
    source = np.repeat(np.arange(len(references)), number)
    limit = np.minimum((references != pad).sum(1) - 1 + LONGER, model.max_decoder_positions() - 1)[source]
    least = np.ones_like(limit)
    key = (sample["id"].cpu().numpy()[:, None] * number + np.arange(number)).flatten()
    chooser = Chooser(
        pad, dictionary.unk(), eos, temperature=TEMPERATURE if number > 1 else 1.0, sampling=number > 1, topk=AMONG, seed=seed
    )
    training, device = model.training, sample["target"].device
    model.eval()
    try:
        with torch.no_grad():
            rows = torch.from_numpy(source).to(device)
            tokens, lengths = net_input["src_tokens"], net_input["src_lengths"]
            encoded = [model.encoder.reorder_encoder_out(out, rows) for out in encode([model], tokens, lengths)]
            session = TorchSession([model], tokens[rows], lengths[rows], chooser, Bounds(least, limit, key), encoded)
            drawn = [text.tokens for text in loop.Decoding(session, modes.strategy(modes.AR), least, limit, pad, eos).run()]
    finally:
        model.train(training)
    closest = make_closest()
    texts = []
    for row, reference in enumerate(references):
        of_source = {_pieces(text, eos, pad): text for text in drawn[row * number : (row + 1) * number]}
        texts.append(of_source[closest(list(of_source), _pieces(reference, eos, pad))])
    length = np.array([len(text) for text in texts])
    target = np.full((len(texts), length.max()), pad)
    target[np.arange(target.shape[1]) < length[:, None]] = np.concatenate(texts)
    previous = np.concatenate([np.full((len(target), 1), eos), target[:, :-1]], 1)
    return {
        "net_input": {**net_input, "prev_output_tokens": torch.from_numpy(previous).to(device)},
        "target": torch.from_numpy(target).to(device),
        "ntokens": int(length.sum()),
        "targets_from": targets_from([np.arange(n) for n in length]),
    }


def _pieces(tokens: np.ndarray, eos: int, pad: int) -> str:
    """Ids as words of a text, for a measure that compares words."""
    return " ".join(str(token) for token in tokens.tolist() if token not in (eos, pad))
