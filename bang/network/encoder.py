"""The encoder: fairseq's post-norm Transformer under the published weight names."""

from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase

from .config import BangConfig


class BangEncoder(TransformerEncoderBase):
    """`dropout(LN(E[src] + P[pos]))`, no embedding scale, then post-norm layers; no final LN.

    fairseq's encoder does just this but for the name of the embedding's layer norm.
    """

    def __init__(self, cfg: BangConfig, dictionary, embed_tokens):
        transformer = TransformerConfig.from_namespace(cfg)
        transformer.encoder.learned_pos = True
        transformer.no_scale_embedding = True
        transformer.layernorm_embedding = True
        super().__init__(transformer, dictionary, embed_tokens)
        self.emb_layer_norm = self.layernorm_embedding
        self.layernorm_embedding = None

    def forward_embedding(self, src_tokens, token_embedding=None):
        """(B, S) to the first layer's input and the bare embedding, both (B, S, D)."""
        if token_embedding is None:
            token_embedding = self.embed_tokens(src_tokens)
        x = self.emb_layer_norm(token_embedding + self.embed_positions(src_tokens))
        return self.dropout_module(x), token_embedding
