"""Options of the models, and the published named architectures."""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

Activation: Any = ChoiceEnum(utils.get_available_activation_fns())


@dataclass
class BangConfig(FairseqDataclass):
    """Sizes and rates of the network. Defaults: the architecture `bang_ar_nar_mixed`."""

    activation_fn: Activation = field(default="relu", metadata={"help": "activation function of the feed-forward layers"})
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout probability of attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout probability after the feed-forward activation"})
    encoder_embed_dim: int = field(default=512, metadata={"help": "width of the encoder"})
    encoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "inner width of the encoder's feed-forward"})
    encoder_layers: int = field(default=6, metadata={"help": "encoder layers"})
    encoder_attention_heads: int = field(default=8, metadata={"help": "encoder attention heads"})
    decoder_embed_dim: int = field(
        default=512, metadata={"help": "width of the decoder; the encoder's where embeddings are shared"}
    )
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "inner width of the decoder's feed-forward"})
    decoder_layers: int = field(default=6, metadata={"help": "decoder layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "decoder attention heads"})
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "project the decoder's output with its input embedding"}
    )
    share_all_embeddings: bool = field(
        default=False,
        metadata={"help": "share the embeddings of encoder, decoder and output (one dictionary)"},
    )
    num_buckets: int = field(
        default=32,
        metadata={
            "help": "buckets of relative distances in the decoder's self-attention",
            "argparse_alias": "--num_buckets",
        },
    )
    relative_max_distance: int = field(
        default=128,
        metadata={
            "help": "from this distance on all are in the last bucket",
            "argparse_alias": "--relative_max_distance",
        },
    )
    ngram: int = field(
        default=1,
        metadata={"help": "predicting streams that the AR updates train (1: plain AR; paper: 9 in pretraining)"},
    )
    load_from_pretrained_model: Optional[str] = field(
        default=None,
        metadata={
            "help": "weights to start from: a checkpoint, or the folder of a BERT or ProphetNet (Hugging Face layout); "
            "`bang starts` prints the sizes that they need"
        },
    )
    pretrained_encoder_layers: Optional[str] = field(
        default=None,
        metadata={
            "help": "layers of --load-from-pretrained-model that start the encoder, such as 0,2,5 (default: evenly spread)"
        },
    )
    pretrained_decoder_layers: Optional[str] = field(default=None, metadata={"help": "the same for the decoder"})
    freeze_encoder_layers: int = field(
        default=0,
        metadata={"help": "do not train this many first layers of the encoder"},
    )
    load_sep: bool = field(
        default=False,
        metadata={"help": "with --load-from-pretrained-model: [X_SEP] starts with the embedding of [SEP]"},
    )
    max_source_positions: int = II("task.max_source_positions")
    max_target_positions: int = II("task.max_target_positions")


def _sizes(width: int, ffn: int, heads: int, layers: int) -> dict:
    side = {"embed_dim": width, "ffn_embed_dim": ffn, "attention_heads": heads, "layers": layers}
    return {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in side.items()}


_pretrained_family = dict(
    activation_fn="gelu",
    dropout=0.1,
    attention_dropout=0.1,
    activation_dropout=0.1,
    share_all_embeddings=True,
    share_decoder_input_output_embed=True,
)

ARCHITECTURES = {
    "": {},
    "_base": dict(_sizes(768, 3072, 12, 6), **_pretrained_family),
    "_middle": dict(_sizes(1024, 4096, 16, 6), **_pretrained_family),
    "_large": dict(_sizes(1024, 4096, 16, 12), **_pretrained_family),
}
"""What each named architecture changes, by the suffix of its name."""


def with_defaults(name: str, defaults: dict) -> type[BangConfig]:
    """BangConfig with other defaults."""
    if not defaults:
        return BangConfig
    changed = [
        (f.name, f.type, field(default=defaults[f.name], metadata=f.metadata)) for f in fields(BangConfig) if f.name in defaults
    ]
    return make_dataclass(f"{BangConfig.__name__}_{name}", changed, bases=(BangConfig,))
