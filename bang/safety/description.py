"""The description of a model: the options of its network and its training, in config.json or in a checkpoint.

One schema serves for both, and sizes are compared with the weights before anything is built: a hostile description can name any
size. Standard library only.
"""

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from ..errors import UserError
from ..text.files import StrPath

ACTIVATIONS = ("relu", "gelu", "gelu_fast", "gelu_accurate", "tanh", "linear")
_MOST_JSON = 1 << 22  # bytes of a description; ours have thousands


class _Kind(NamedTuple):
    """A check of an option's value, and its wording in messages."""

    serves: Callable[[Any], bool]
    wanted: str


def _whole(least: int, most: int) -> _Kind:
    return _Kind(lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}")


def _number(least: float, most: float) -> _Kind:
    def serves(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and least <= value <= most

    return _Kind(serves, f"a number from {least} to {most}")


_FLAG = _Kind(lambda value: type(value) is bool, "true or false")
_SHARE = _number(0, 1)

OPTIONS: dict[str, _Kind] = {
    "activation_fn": _Kind(lambda value: isinstance(value, str) and value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), _SHARE),
    **{
        f"{side}_{name}": _whole(1, most)
        for side in ("encoder", "decoder")
        for name, most in (("embed_dim", 1 << 16), ("ffn_embed_dim", 1 << 20), ("layers", 1000), ("attention_heads", 1 << 16))
    },
    **dict.fromkeys(("share_decoder_input_output_embed", "share_all_embeddings"), _FLAG),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "relative_max_distance"), _whole(1, 1 << 20)),
    "num_buckets": _whole(2, 1 << 16),
    "ngram": _whole(1, 1000),
    **dict.fromkeys(("nar_ratio", "semi_nar_ratio", "label_smoothing"), _SHARE),
    "block_size": _whole(1, 1 << 20),
    **dict.fromkeys(("disable_ngram_loss", "random_block_offset", "joint_modes"), _FLAG),
}
"""The options that have an effect: the network's, and those of the training that decide which modes are trained."""


def check_options(options: Mapping[str, Any], source: str) -> None:
    """Refuses options that no model can have; None counts as not given.

    Args:
        source: what they describe, for messages.
    """
    for name, kind in OPTIONS.items():
        value = options.get(name)
        if value is not None and not kind.serves(value):
            raise UserError(f"{source}: its {name} is {value!r:.60}, and has to be {kind.wanted}")
    buckets, distance = options.get("num_buckets"), options.get("relative_max_distance")
    if buckets is not None and distance is not None and distance <= buckets // 2:
        raise UserError(f"{source}: its relative_max_distance is {distance}, and has to be above half of its {buckets} buckets")


class Shaped(Protocol):
    """A weight; only its shape is used."""

    @property
    def shape(self) -> Any: ...


def layers_of(weights: Mapping[str, Any], source: str) -> dict[str, int]:
    """The number of layers, from the weights' names: {"encoder": 6, "decoder": 6}.

    Raises:
        ValueError: a layer is missing.
    """
    found: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for name in weights:
        match = re.match(r"(encoder|decoder)\.layers\.([0-9]{1,9})\.", name)
        if match is not None:
            found[match[1]].add(int(match[2]))
    for side, numbers in found.items():
        lacking = next((number for number in range(len(numbers)) if number not in numbers), None)
        if lacking is not None:
            raise UserError(f"{source}: lacks the {side}'s layer {lacking} and has layer {max(numbers)}; copy the file again")
    return {side: len(numbers) for side, numbers in found.items()}


def widths_of(weights: Mapping[str, Shaped]) -> dict[str, int]:
    """The widths, from the weights' shapes, by the option that has to match."""
    found = {}
    for side in ("encoder", "decoder"):
        for option, name, axis in (("embed_dim", "embed_tokens", 1), ("ffn_embed_dim", "layers.0.fc1", 0)):
            table = weights.get(f"{side}.{name}.weight")
            if table is not None and len(table.shape) == 2:
                found[f"{side}_{option}"] = table.shape[axis]
    return found


def check_weights_fit(options: Mapping[str, Any], weights: Mapping[str, Shaped], source: str) -> None:
    """Refuses sizes that differ from the weights', before a network is built.

    Args:
        options: the network's, checked by `check_options`; missing or None: not compared.
        weights: under our names.
    """
    found = {f"{side}_layers": count for side, count in layers_of(weights, source).items()} | widths_of(weights)
    for side, table in itertools.product(("encoder", "decoder"), ("embed_tokens", "embed_positions")):
        name = f"{side}.{table}.weight"
        if name not in weights or len(weights[name].shape) != 2:
            raise UserError(f"{source}: no {name} among its weights, or no table; it is damaged, or of another model")
    found["max_source_positions"] = weights["encoder.embed_positions.weight"].shape[0] - 1  # one is for pads
    found["max_target_positions"] = weights["decoder.embed_positions.weight"].shape[0] - 2  # and one for the last slot
    for name, size in found.items():
        if options.get(name) is not None and options[name] != size:
            raise UserError(f"{source}: its {name} is {options[name]!r:.40}, and its weights are of {size}")
    for side in ("encoder", "decoder"):
        heads, width = options.get(f"{side}_attention_heads"), found[f"{side}_embed_dim"]
        if heads is not None and width % heads:
            raise UserError(f"{source}: its {side}_attention_heads is {heads}, which does not divide its width of {width}")
    relative = weights.get("decoder.layers.0.ngram_self_attn.relative_linear.weight")
    buckets, heads = options.get("num_buckets"), options.get("decoder_attention_heads")
    if relative is not None and buckets is not None and heads is not None and relative.shape[0] != buckets * heads:
        raise UserError(
            f"{source}: its num_buckets is {buckets} and its decoder_attention_heads {heads}, and its weights have "
            f"{relative.shape[0]} relative terms, not {buckets * heads}"
        )


def read_description(path: StrPath) -> dict[str, Any]:
    """Reads a JSON file that describes a model.

    Raises:
        ValueError: it is not a file, too long, not JSON, or not an object; one line.
    """
    if not os.path.isfile(path):  # /dev/zero never ends, and a pipe may never begin
        raise UserError(f"{path}: is no file")
    if os.path.getsize(path) > _MOST_JSON:
        raise UserError(f"{path}: {os.path.getsize(path)} bytes are too many for the description of a model")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (ValueError, RecursionError) as error:  # bad JSON or UTF-8, numbers of 5,000 digits, deep nesting
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]:.200})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no settings by name")
    return found
