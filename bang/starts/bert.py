"""BERT's weights under our names: its encoder starts both of our sides.

BANG's encoder is BERT's, its vocabulary bert-base-uncased's, its slot BERT's [MASK]. What BERT lacks: attention on the
source (begins as a copy of the layer's self-attention) and the relative term (zeros, made in `adapt` as the slot is, for
which the dictionary says where [MASK] stands). What of BERT is left out: the pooler, the heads of its tasks, token type 1.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import UserError
from . import names

_EMBEDDINGS = tuple(
    f"embeddings.{name}.weight" for name in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
) + ("embeddings.LayerNorm.bias",)
_LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "gelu_new": "gelu_accurate", "gelu_pytorch_tanh": "gelu_accurate"}


def recognises(saved: dict[str, Tensor]) -> bool:
    return any(name in saved for name in ("embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight"))


def settings(config: dict, path: str) -> dict:
    """The options that BERT's `config.json` settles beyond the shapes.

    Raises:
        ValueError: a kind of position or activation that we do not have.
    """
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise UserError(f"{path}: its positions are {kind}, ours are absolute: it cannot be a start")
    heads = config.get("num_attention_heads")
    found = {"activation_fn": names.activation(config.get("hidden_act", "gelu"), _ACTIVATIONS, path)}
    return found | ({} if heads is None else {"encoder_attention_heads": heads, "decoder_attention_heads": heads})


def translate(saved: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """Gives BERT's weights our names, its layers to the encoder and to the decoder.

    Row p of the encoder's positions is BERT's position p, as our source has no [CLS]; row p of the decoder's is its
    position p - 1, as the decoder's input begins with eos. Token type 0 is part of every position.

    Args:
        saved: BERT's weights, with or without the prefix `bert.`, (out, in) matrices as everywhere.
        path: for messages.
    Raises:
        ValueError: a weight lacks, is unknown or of another shape; one line.
    """
    embeddings, layers = _sort(saved, path)
    words = embeddings["embeddings.word_embeddings.weight"]
    positions = embeddings["embeddings.position_embeddings.weight"] + embeddings["embeddings.token_type_embeddings.weight"][:1]
    pad = torch.zeros_like(positions[:1])
    weights = {
        "encoder.embed_positions.weight": torch.cat([pad, positions[1:]]),
        "decoder.embed_positions.weight": torch.cat([pad, positions]),
    }
    for side in ("encoder", "decoder"):
        weights[f"{side}.embed_tokens.weight"] = words
        for kind in ("weight", "bias"):
            weights[f"{side}.emb_layer_norm.{kind}"] = embeddings[f"embeddings.LayerNorm.{kind}"]
    for number, layer in enumerate(layers):
        weights |= {f"encoder.layers.{number}.{name}": value for name, value in layer.items()}
        # BERT has no attention on the source: a copy of the layer's self-attention starts it
        layer |= {
            name.replace("self_attn", "encoder_attn", 1): value.clone()
            for name, value in layer.items()
            if name.startswith("self_attn")
        }
        weights |= {f"decoder.layers.{number}.{name}": value for name, value in names.stack_self_attention(layer, path).items()}
    return weights


def _sort(saved: dict[str, Tensor], path: str) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """BERT's embeddings under its own names, and its layers under those of our encoder's, in float32."""
    prefix = "bert." if any(name.startswith("bert.") for name in saved) else ""
    embeddings: dict[str, Tensor] = {}
    layers: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        if not name.startswith((f"{prefix}embeddings.", f"{prefix}encoder.")) or name.endswith(".position_ids"):
            continue  # the pooler, heads of its tasks, and position numbers that old files keep
        name = (
            name.removeprefix(prefix).replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        )
        layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", name)
        if layer:
            layers.setdefault(int(layer[1]), {})[layer[2]] = value.float()
        else:
            embeddings[name] = value.float()
    _check_complete(embeddings, _EMBEDDINGS, path)
    for number in range(len(layers)):
        found = {f"encoder.layer.{number}.{name}": value for name, value in layers.get(number, {}).items()}
        wanted = [f"encoder.layer.{number}.{module}.{kind}" for module in _LAYER for kind in ("weight", "bias")]
        _check_complete(found, wanted, path)
    _check_shapes(embeddings, layers, path)
    renamed = [
        {f"{ours}.{kind}": layers[number][f"{theirs}.{kind}"] for theirs, ours in _LAYER.items() for kind in ("weight", "bias")}
        for number in range(len(layers))
    ]
    return embeddings, renamed


def _check_complete(found: dict[str, Tensor], wanted: Iterable[str], path: str) -> None:
    for problem, odd in (("lacks", set(wanted) - found.keys()), ("has the unknown weight", found.keys() - set(wanted))):
        if odd:
            raise UserError(f"{path}: {problem} {min(odd)}: incomplete, or no plain BERT encoder")


def _check_shapes(embeddings: dict[str, Tensor], layers: dict[int, dict[str, Tensor]], path: str) -> None:
    """The width is the embedding's, the inner width the first layer's; all else follows."""
    words, positions, types = _EMBEDDINGS[:3]
    names.check_table(words, embeddings[words], path)
    width = embeddings[words].size(1)
    names.check_table(positions, embeddings[positions], path, 2, width)  # the encoder's begin with the second
    names.check_table(types, embeddings[types], path, 1, width)
    for name in _EMBEDDINGS[3:]:
        names.check_shape(name, embeddings[name], (width,), path)
    inner = layers[0]["intermediate.dense.bias"].numel() if layers else 0
    sizes = {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
    for number, layer in layers.items():
        for module in _LAYER:
            size = sizes.get(module, (width, width))
            for kind, shape in (("weight", size[:1] if "LayerNorm" in module else size), ("bias", size[:1])):
                names.check_shape(f"encoder.layer.{number}.{module}.{kind}", layer[f"{module}.{kind}"], shape, path)
