"""What the families of starts share: names of activations, checks of shapes, and the decoder's stacked projections."""

import torch
from torch import Tensor

from ..errors import UserError

_REMEDY = "the file is damaged, or of another network: take it whole from where it comes"


def activation(name: str, known: dict[str, str], path: str) -> str:
    """fairseq's name of a Hugging Face activation function.

    Raises:
        ValueError: fairseq has none.
    """
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{path}: its activation function {name} has no counterpart in --activation-fn: it cannot be a start")
    return known[name]


def check_shape(name: str, value: Tensor, shape: tuple[int, ...], path: str) -> None:
    """Raises a ValueError that names the weight where it is of another shape."""
    if value.shape != shape:
        raise UserError(f"{path}: {name} is {tuple(value.shape)} and has to be {shape}; {_REMEDY}")


def check_table(name: str, value: Tensor, path: str, least: int = 1, width: int | None = None) -> None:
    """Raises a ValueError that names the weight where it is no table of `least` rows or more, all of `width` if that is given."""
    if value.dim() != 2 or len(value) < least or value.size(1) != (width or value.size(1)):
        wanted = f"a table of {least} or more rows" + (f" of {width}" if width else "")
        raise UserError(f"{path}: {name} is {tuple(value.shape)} and has to be {wanted}; {_REMEDY}")


def stack_self_attention(layer: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """A layer whose self-attention's q, k and v (D, D) are stacked (3D, D) under the decoder's names.

    Raises:
        ValueError: their shapes differ.
    """
    stacked = {}
    for kind in ("weight", "bias"):
        names = [f"self_attn.{part}_proj.{kind}" for part in "qkv"]
        if layer.keys() >= set(names):  # else the check of the whole names what is missing
            parts = [layer[name] for name in names]
            if len({part.shape for part in parts}) > 1 or not parts[0].dim():
                shapes = ", ".join(str(tuple(part.shape)) for part in parts)
                raise UserError(f"{path}: query, key and value {kind} of a self-attention are {shapes}; {_REMEDY}")
            stacked[f"ngram_self_attn.in_proj_{kind}"] = torch.cat(parts)
    for name, value in layer.items():
        if not name.startswith(tuple(f"self_attn.{part}_proj" for part in "qkv")):
            stacked[name.replace("self_attn.out_proj", "ngram_self_attn.out_proj")] = value
    return stacked
