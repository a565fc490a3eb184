"""ProphetNet's Hugging Face weights under our names; its fairseq files have ours already.

BANG descends from it: every weight has its counterpart. Its slots have never seen another slot, so AR is what such a
start knows, and NAR, semi-NAR and drafts are still to be learned.
"""

import re

from torch import Tensor

from ..errors import UserError
from . import names

_MODULES = {
    "word_embeddings": "embed_tokens",
    "position_embeddings": "embed_positions",
    "embeddings_layer_norm": "emb_layer_norm",
    "ngram_embeddings": "ngram_input_embed",
}
_LAYER = {
    "feed_forward.intermediate": "fc1",
    "feed_forward.output": "fc2",
    "feed_forward_layer_norm": "final_layer_norm",
    "cross_attn_layer_norm": "encoder_attn_layer_norm",
    "self_attn_layer_norm": "self_attn_layer_norm",
    "self_attn.relative_pos_embeddings": "ngram_self_attn.relative_linear",
}
_PROJECTIONS = {"query_proj": "q_proj", "key_proj": "k_proj", "value_proj": "v_proj", "out_proj": "out_proj"}
for _theirs, _ours in _PROJECTIONS.items():
    _LAYER |= {f"self_attn.{_theirs}": f"self_attn.{_ours}", f"cross_attn.{_theirs}": f"encoder_attn.{_ours}"}
_OPTIONS = {
    "num_encoder_attention_heads": "encoder_attention_heads",
    "num_decoder_attention_heads": "decoder_attention_heads",
    "num_buckets": "num_buckets",
    "relative_max_distance": "relative_max_distance",
}


def recognises(saved: dict[str, Tensor]) -> bool:
    return any(name.removeprefix("prophetnet.") == "decoder.ngram_embeddings.weight" for name in saved)


def settings(config: dict, path: str) -> dict:
    """The options that ProphetNet's `config.json` settles beyond the shapes.

    Raises:
        ValueError: an activation that we do not have.
    """
    activation = names.activation(config.get("activation_function", "gelu"), {"gelu": "gelu", "relu": "relu"}, path)
    return {"activation_fn": activation} | {ours: config[name] for name, ours in _OPTIONS.items() if name in config}


def translate(saved: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """Gives ProphetNet's weights our names.

    Raises:
        ValueError: a weight is unknown or of another shape; one line.
    """
    weights: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Tensor]] = {}
    for full, value in saved.items():
        name = full.removeprefix("prophetnet.")
        module, _, kind = name.rpartition(".")
        side, _, rest = module.partition(".")
        if module in ("word_embeddings", "lm_head"):  # one table under many names
            for side in ("encoder", "decoder"):
                weights.setdefault(f"{side}.embed_tokens.weight", value.float())
        elif rest in _MODULES:
            weights[f"{side}.{_MODULES[rest]}.{kind}"] = value.float()
        elif (match := re.fullmatch(r"(layers\.\d+)\.(.+)", rest)) and match[2] in _LAYER:
            layers.setdefault(f"{side}.{match[1]}", {})[f"{_LAYER[match[2]]}.{kind}"] = value.float()
        else:
            raise UserError(f"{path}: has the unknown weight {full}: it is no plain ProphetNet")
    for place, layer in layers.items():
        if place.startswith("decoder"):
            layer = names.stack_self_attention(layer, path)
        weights |= {f"{place}.{name}": value for name, value in layer.items()}
    return weights
