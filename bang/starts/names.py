"""What the families of starts share: names of activations, and the decoder's stacked projections."""

import torch
from torch import Tensor


def activation(name: str, known: dict[str, str], path: str) -> str:
    """fairseq's name of a Hugging Face activation function.

    Raises:
        ValueError: fairseq has none.
    """
    if name not in known:
        raise ValueError(f"{path}: its activation function {name} has no counterpart in --activation-fn: it cannot be a start")
    return known[name]


def stack_self_attention(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """A layer whose self-attention's q, k and v (D, D) are stacked (3D, D) under the decoder's names."""
    stacked = {}
    for kind in ("weight", "bias"):
        parts = [layer.get(f"self_attn.{part}_proj.{kind}") for part in "qkv"]
        if all(part is not None for part in parts):  # else the check of the whole names what is missing
            stacked[f"ngram_self_attn.in_proj_{kind}"] = torch.cat(parts)
    for name, value in layer.items():
        if not name.startswith(tuple(f"self_attn.{part}_proj" for part in "qkv")):
            stacked[name.replace("self_attn.out_proj", "ngram_self_attn.out_proj")] = value
    return stacked
