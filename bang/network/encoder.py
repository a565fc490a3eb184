"""The encoder: fairseq's post-norm Transformer under the published weight names.

Shapes: B batch, S source length, D width.
"""

from typing import Any

from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase

from ..errors import UserError
from .config import BangConfig

AT_ONCE = 256
"""Source tokens that go through the layers together when decoding on a CPU: enough to share the weights, few enough for
the cache, and of like lengths: padding costs as much as tokens do."""


class BangEncoder(TransformerEncoderBase):
    """`dropout(LN(E[src] + P[pos]))`, no embedding scale, then post-norm layers; no final LN.

    fairseq's encoder does just this but for the name of the embedding's layer norm. With --freeze-encoder-layers the first
    layers and what comes before them are constant; a shared embedding still learns from its other uses.
    """

    layernorm_embedding: Any

    def __init__(self, cfg: BangConfig, dictionary, embed_tokens):
        transformer = TransformerConfig.from_namespace(cfg)
        transformer.encoder.learned_pos = True
        transformer.no_scale_embedding = True
        transformer.layernorm_embedding = True
        super().__init__(transformer, dictionary, embed_tokens)
        self.emb_layer_norm = self.layernorm_embedding
        self.layernorm_embedding = None
        self.in_parts = False  # `BangModel.lay_out`: for decoding, sources of like length are encoded together
        self.frozen_layers = getattr(cfg, "freeze_encoder_layers", 0)
        if not 0 <= self.frozen_layers <= cfg.encoder_layers:
            raise UserError(
                f"--freeze-encoder-layers {self.frozen_layers}: the encoder has {cfg.encoder_layers} (--encoder-layers)"
            )
        if self.frozen_layers:
            constant = [] if cfg.share_all_embeddings else [self.embed_tokens]
            for module in (*constant, self.embed_positions, self.emb_layer_norm, *self.layers[: self.frozen_layers]):
                module.requires_grad_(False)

    def forward_embedding(self, src_tokens, token_embedding=None):
        """(B, S) to the first layer's input and the bare embedding, both (B, S, D)."""
        if token_embedding is None:
            token_embedding = self.embed_tokens(src_tokens)
        x = self.emb_layer_norm(token_embedding + self.embed_positions(src_tokens))
        x = x.detach() if self.frozen_layers else x
        return self.dropout_module(x), token_embedding

    def forward(self, src_tokens, src_lengths=None, return_all_hiddens=False, token_embeddings=None):
        """(B, S) to fairseq's dictionary; its `encoder_out` is (S, B, D)."""
        in_parts = self.in_parts and not self.training and not return_all_hiddens and token_embeddings is None
        if not in_parts or src_tokens.device.type != "cpu" or len(src_tokens) == 1:
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        real = src_tokens.ne(self.padding_idx)
        lengths = real.sum(1)
        order = lengths.argsort(descending=True, stable=True)
        whole = self.embed_tokens.weight.new_zeros(*reversed(src_tokens.shape), self.embed_tokens.embedding_dim)
        while len(order):
            rows = order[: max(1, AT_ONCE // int(lengths[order[0]]))]
            order = order[len(rows) :]
            columns = real[rows].any(0).nonzero()[:, 0]
            columns = slice(int(columns[0]), int(columns[-1]) + 1)  # pads may be on either side
            part = super().forward(src_tokens[rows, columns], lengths[rows])
            whole[columns, rows] = part["encoder_out"][0]
        return {
            "encoder_out": [whole], "encoder_padding_mask": [~real], "encoder_embedding": [], "encoder_states": [],
            "fc_results": [], "src_tokens": [], "src_lengths": [lengths[:, None]],
        }  # fmt: skip
