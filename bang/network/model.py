"""The models: one network; the names differ in the mode that a plain forward pass runs."""

import logging
from collections.abc import Sequence

from fairseq.models import FairseqEncoderDecoderModel
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import Tensor, nn

from .. import modes, visibility
from ..errors import UserError
from ..safety import checkpoints
from ..visibility import Layout
from .config import BangConfig
from .decoder import BangDecoder
from .encoder import BangEncoder
from .packed import lay_by_columns

logger = logging.getLogger(__name__)


class BangModel(FairseqEncoderDecoderModel):
    """BANG: one encoder-decoder that predicts AR, semi-NAR, NAR or in n streams.

    `model(src_tokens, src_lengths, prev_output_tokens)` gives AR logits (B, T, V); `layout=` names
    another mode (see `visibility` and `BangDecoder.forward`).
    """

    default_layout = staticmethod(visibility.autoregressive)
    trains = modes.trained()
    """The modes that the model can be trained in; it decodes in these and in those that their training trains."""

    def __init__(self, cfg: BangConfig, encoder: BangEncoder, decoder: BangDecoder):
        super().__init__(encoder, decoder)
        self.cfg = cfg
        self.num_updates = 0
        self.apply(init_bert_params)  # normal of std 0.02, zero biases; in_proj stays Xavier uniform

    @property
    def decodes(self) -> tuple[str, ...]:
        """Names of the modes that the model can decode in."""
        return modes.decoded(self.trains)

    @classmethod
    def build_model(cls, cfg: BangConfig, task) -> "BangModel":
        """Builds the network, and starts it from a pretrained one if --load-from-pretrained-model says so."""
        _check(cfg, task)
        if cfg.ngram > 1 and not any(modes.find(name).streams_train for name in cls.trains):
            logger.warning("--ngram %d has no effect with --arch bang_nar, which runs NAR alone", cfg.ngram)
        source = _embedding(task.source_dictionary, cfg.encoder_embed_dim)
        target = source if cfg.share_all_embeddings else _embedding(task.target_dictionary, cfg.decoder_embed_dim)
        if cfg.share_all_embeddings:
            cfg.share_decoder_input_output_embed = True
        encoder = BangEncoder(cfg, task.source_dictionary, source)
        decoder = BangDecoder(cfg, task.target_dictionary, target, cls.default_layout)
        return cls(cfg, encoder, decoder)

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        """As fairseq's; says in one line which option does not match the checkpoint."""
        self.upgrade_state_dict(state_dict)
        if strict:
            checkpoints.check_fits(state_dict, self.state_dict(), getattr(state_dict, "source", "checkpoint"))
        return super().load_state_dict(state_dict, strict, model_cfg, args)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor | list[Tensor],
        layout: Layout | list[Layout] | None = None,
        positions: Tensor | None = None,
        select: Sequence[Tensor] = (),
    ):
        """Encodes (B, S) and decodes; the rest as in `BangDecoder.extract_features`.

        A list of layouts is decoded on one encoder pass. `select` then holds, for each, the slots that
        are wanted, as indices (n) into its flattened (B, G*K), and what comes back is a list of their
        features (n, D), for `loss.linear_nll`: training has no use for all logits at once. The main tokens
        may be a list too: other texts of the same sources.
        """
        encoder_out = self.encoder(src_tokens, src_lengths=src_lengths)
        if isinstance(layout, list):
            texts = prev_output_tokens if isinstance(prev_output_tokens, list) else [prev_output_tokens] * len(layout)
            passes = (
                self.decoder.extract_features(tokens, encoder_out, None, layout=one, positions=positions)[0]
                for tokens, one in zip(texts, layout)
            )
            return [features.flatten(0, 1)[index] for features, index in zip(passes, select)]
        return self.decoder(prev_output_tokens, encoder_out, layout=layout, positions=positions)

    def set_num_updates(self, num_updates: int) -> None:
        """fairseq's trainer sets the update number; the criterion draws the update's mode from it."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def prepare_for_inference_(self, cfg) -> None:
        """fairseq's hook before generation; fairseq-generate itself passes over --bf16."""
        super().prepare_for_inference_(cfg)
        if cfg.common.bf16:
            self.bfloat16()
        self.lay_out()

    def lay_out(self) -> None:
        """Gets ready to decode: arranges the layers' weights in memory; call once they are where and as they are to stay."""
        self.encoder.in_parts = True
        lay_by_columns(self.encoder.layers)
        lay_by_columns(self.decoder.layers)


class BangArModel(BangModel):
    """The same network, AR alone; trained with `ngram_language_loss`."""

    trains = (modes.AR,)

    def forward(self, src_tokens, src_lengths, prev_output_tokens, layout=None, *args, **kwargs):
        if any(not one.main_length for one in _layouts(layout)):
            raise UserError("--arch bang_ar runs AR alone: set --nar-ratio 0, or use --arch bang_ar_nar_mixed")
        return super().forward(src_tokens, src_lengths, prev_output_tokens, layout, *args, **kwargs)


class BangNarModel(BangModel):
    """The same network; a forward pass is NAR: plain logits for fairseq's label_smoothed_cross_entropy."""

    default_layout = staticmethod(visibility.non_autoregressive)
    trains = (modes.NAR,)

    def forward(self, src_tokens, src_lengths, prev_output_tokens, layout=None, *args, **kwargs):
        if any(one.main_length for one in _layouts(layout)):
            raise UserError(
                "--arch bang_nar runs NAR alone: train it with --criterion label_smoothed_cross_entropy, "
                "or use --arch bang_ar_nar_mixed"
            )
        return super().forward(src_tokens, src_lengths, prev_output_tokens, layout, *args, **kwargs)


def _layouts(layout: Layout | list[Layout] | None) -> list[Layout]:
    return layout if isinstance(layout, list) else [] if layout is None else [layout]


def _embedding(dictionary, dim: int) -> nn.Embedding:
    return nn.Embedding(len(dictionary), dim, padding_idx=dictionary.pad())


def _check(cfg: BangConfig, task) -> None:
    check_sizes(cfg)
    if cfg.share_all_embeddings and task.source_dictionary != task.target_dictionary:
        raise UserError("--share-all-embeddings needs one dictionary: binarize with the same --srcdict and --tgtdict")


def check_sizes(cfg: BangConfig) -> None:
    """Refuses sizes of which no network can be made.

    Raises:
        ValueError: one line that names the option.
    """
    if cfg.encoder_embed_dim != cfg.decoder_embed_dim and cfg.share_all_embeddings:
        raise UserError(
            f"--share-all-embeddings needs one width: --encoder-embed-dim {cfg.encoder_embed_dim}, "
            f"--decoder-embed-dim {cfg.decoder_embed_dim}; give both the same, or use --arch bang_ar_nar_mixed, bang_ar or "
            "bang_nar, which do not share by default"
        )
    for side in ("encoder", "decoder"):
        heads, width = getattr(cfg, f"{side}_attention_heads"), getattr(cfg, f"{side}_embed_dim")
        if heads < 1 or width % heads:
            raise UserError(f"--{side}-attention-heads {heads}: give a number that divides --{side}-embed-dim {width}")
    if cfg.num_buckets < 2 or cfg.relative_max_distance <= cfg.num_buckets // 2:
        raise UserError(
            f"--num-buckets {cfg.num_buckets}, --relative-max-distance {cfg.relative_max_distance}: "
            "the distance must be above half the buckets, of which there are at least 2"
        )
