"""What a start needs of fairseq-train, and a start as a checkpoint of its own."""

import shlex
from typing import Any

import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from ..errors import UserError
from ..inference.trained_model import TrainedModel
from ..plugin.dictionary import BertDictionary
from ..starts.files import OPTION, Start
from ..starts.load import load_into

ARCHITECTURE = "bang_ar_nar_mixed"


def sizes_of(start: Start) -> dict[str, Any]:
    """The model's options that the start settles: all of its layers, sharing as it shares.

    Raises:
        ValueError: a bare file of weights without the `config.json` that gives its attention heads.
    """
    if "encoder_attention_heads" not in start.sizes:
        raise UserError(f"{start.path}: weights alone do not tell the attention heads; put its config.json beside it")
    encoder, decoder = (start.weights.get(f"{side}.embed_tokens.weight") for side in ("encoder", "decoder"))
    shared = "decoder.embed_out" not in start.weights
    return {
        **{f"{side}_layers": count for side, count in start.layers.items()},
        **start.sizes,
        "share_decoder_input_output_embed": shared,
        "share_all_embeddings": shared and encoder is not None and decoder is not None and torch.equal(encoder, decoder),
    }


def train_options(start: Start) -> str:
    """fairseq-train's options for a model that starts from it, ready for a shell."""
    words = ["--arch", ARCHITECTURE]
    for name, value in sizes_of(start).items():
        if value is not False:
            words += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
    return shlex.join([*words, OPTION, start.path])


def to_model(start: Start, dictionary: BertDictionary, **options) -> TrainedModel:
    """A model with the start's weights, which no update has changed.

    Args:
        dictionary: of sources and targets alike.
        options: of the model (`BangConfig`), where they are not the start's own: fewer layers, say.
    Raises:
        ValueError: the start does not fit them; one line.
    """
    sizes = {**sizes_of(start), "max_source_positions": 512, "max_target_positions": 512}
    sizes |= {name: value for name, value in options.items() if value is not None}
    model = TrainedModel(ARCHITECTURE, sizes, weights={}, dictionary=dictionary, criterion={}, updates=0)
    cfg = MODEL_DATACLASS_REGISTRY[ARCHITECTURE](**sizes)
    cfg._name = ARCHITECTURE
    network = model.task().build_model(OmegaConf.structured(cfg), from_checkpoint=True)
    load_into(network, start)
    chosen = ("pretrained_encoder_layers", "pretrained_decoder_layers")  # of no use once they have been taken
    sizes = {name: value for name, value in sizes.items() if name not in chosen}
    return TrainedModel(ARCHITECTURE, sizes, network.state_dict(), dictionary, criterion={}, updates=0)
