"""Our own pretrained checkpoints, fitted to the model that starts from them."""

import torch
from torch import Tensor

from .. import checkpoints

POSITIONS = ("encoder.embed_positions.weight", "decoder.embed_positions.weight")
SLOT = "decoder.ngram_input_embed.weight"
X_SEP, SEP = 2, 102  # rows of [X_SEP] and [SEP] in the published vocabulary


def read_pretrained(path: str) -> dict[str, Tensor]:
    """The weights of a fairseq checkpoint or of a bare state dict."""
    state = checkpoints.read(path)
    weights = state.get("model", state)
    if not isinstance(weights, dict) or SLOT not in weights:
        raise ValueError(f"--load-from-pretrained-model {path}: no BANG checkpoint, it lacks {SLOT}")
    return dict(weights)


def adapt(weights: dict[str, Tensor], own: dict[str, Tensor], load_sep: bool) -> dict[str, Tensor]:
    """Fits pretrained weights to the model that starts from them.

    Args:
        weights: the pretrained weights, by name.
        own: the model's own, whose position tables give the lengths.
        load_sep: copy the embedding of [SEP] over that of [X_SEP].
    Returns:
        A new dict; position tables cut or extended, one slot vector.
    """
    weights = dict(weights)
    for name in POSITIONS:
        if name in weights:
            weights[name] = _fit_positions(weights[name], len(own[name]))
    if len(weights[SLOT]) == 2:
        weights[SLOT] = weights[SLOT][1:]
    if load_sep:
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            table = weights[name].clone()
            table[X_SEP] = table[SEP]
            weights[name] = table
    return weights


def _fit_positions(table: Tensor, length: int) -> Tensor:
    """Cuts (L, D) to `length` rows, or extends it by its rows with columns rotated left by 1, 2, ..."""
    parts = [table.roll(-turn, dims=1) for turn in range(-(-length // len(table)))]
    return torch.cat(parts)[:length]
