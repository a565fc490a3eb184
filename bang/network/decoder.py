"""The decoder: a main stream of real tokens and blocks of mask slots that predict.

Shapes: B batch, T target length, S source length, M new main tokens, G blocks of K slots, D
width, V vocabulary.
"""

from typing import Optional

import torch
from fairseq import utils
from fairseq.models import FairseqIncrementalDecoder
from fairseq.modules import FairseqDropout, LayerNorm, LearnedPositionalEmbedding, MultiheadAttention
from torch import Tensor, nn
from torch.nn import functional as F

from .. import visibility
from .attention import NgramSelfAttention, View, bucket_tensor, layout_tensors, make_view, slot_positions
from .config import BangConfig
from ..visibility import Layout


class BangDecoderLayer(nn.Module):
    """Post-norm: multi-stream self-attention, attention on the source, feed-forward."""

    def __init__(self, cfg: BangConfig):
        super().__init__()
        dim = cfg.decoder_embed_dim
        self.ngram_self_attn = NgramSelfAttention(
            dim, cfg.decoder_attention_heads, cfg.attention_dropout, cfg.num_buckets
        )
        self.self_attn_layer_norm = LayerNorm(dim)
        self.encoder_attn = MultiheadAttention(
            dim,
            cfg.decoder_attention_heads,
            kdim=cfg.encoder_embed_dim,
            vdim=cfg.encoder_embed_dim,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
        )
        self.encoder_attn_layer_norm = LayerNorm(dim)
        self.fc1 = nn.Linear(dim, cfg.decoder_ffn_embed_dim)
        self.fc2 = nn.Linear(cfg.decoder_ffn_embed_dim, dim)
        self.final_layer_norm = LayerNorm(dim)
        self.activation_fn = utils.get_activation_fn(cfg.activation_fn)
        self.dropout_module = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)
        self.activation_dropout_module = FairseqDropout(cfg.activation_dropout, module_name=self.__class__.__name__)

    def forward(
        self,
        x: Tensor,
        view: View,
        source: Tensor,
        source_padding: Optional[Tensor],
        incremental_state: Optional[dict] = None,
        main_output: bool = True,
        need_attn: bool = False,
    ):
        """
        Args:
            x: main tokens, then slots, (M + G*K, B, D).
            source: encoder output, (S, B, D).
            source_padding: True at pads, (B, S).
            main_output: False: return the slots alone.
        Returns:
            (M + G*K or G*K, B, D), and the attention on the source (B, queries, S) if asked for.
        """
        residual = x if main_output else x[view.main_new :]
        x = self.ngram_self_attn(x, view, incremental_state, main_output)
        x = self.self_attn_layer_norm(residual + self.dropout_module(x))
        residual = x
        x, attn = self.encoder_attn(
            query=x,
            key=source,
            value=source,
            key_padding_mask=source_padding,
            incremental_state=incremental_state,
            static_kv=incremental_state is not None,
            need_weights=need_attn,
        )
        x = self.encoder_attn_layer_norm(residual + self.dropout_module(x))
        residual = x
        x = self.activation_dropout_module(self.activation_fn(self.fc1(x)))
        x = self.final_layer_norm(residual + self.dropout_module(self.fc2(x)))
        return x, attn


class BangDecoder(FairseqIncrementalDecoder):
    """Runs any layout of `visibility`; without one, the mode that the model is made for.

    Args:
        cfg: sizes and rates.
        dictionary: target dictionary.
        embed_tokens: embedding, (V, D).
        default_layout: makes the layout of a pass that names none, from the target length.
    """

    def __init__(self, cfg: BangConfig, dictionary, embed_tokens, default_layout=visibility.autoregressive):
        super().__init__(dictionary)
        self.register_buffer("version", torch.tensor([3.0]))
        self.default_layout = default_layout
        self.embed_tokens = embed_tokens
        self.padding_idx = embed_tokens.padding_idx
        self.num_buckets, self.relative_max_distance = cfg.num_buckets, cfg.relative_max_distance
        self.max_target_positions = cfg.max_target_positions
        # a slot stands one position after its main token, hence one row more than fairseq's table
        self.embed_positions = LearnedPositionalEmbedding(
            cfg.max_target_positions + 2, cfg.decoder_embed_dim, self.padding_idx
        )
        self.ngram_input_embed = nn.Embedding(1, cfg.decoder_embed_dim)
        self.emb_layer_norm = LayerNorm(cfg.decoder_embed_dim)
        self.dropout_module = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)
        self.layers = nn.ModuleList(BangDecoderLayer(cfg) for _ in range(cfg.decoder_layers))
        self.embed_out = None
        if not cfg.share_decoder_input_output_embed:
            self.embed_out = nn.Parameter(torch.empty(len(dictionary), cfg.decoder_embed_dim).normal_(std=0.02))
        self.need_attn = False

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict,
        incremental_state: Optional[dict] = None,
        layout: Optional[Layout] = None,
        positions: Optional[Tensor] = None,
        select: Optional[Tensor] = None,
        **unused,
    ):
        """
        Args:
            prev_output_tokens: main tokens, (B, T); a pass without a main stream takes the batch
                size and, without `layout`, the length from it. With a cache, all since the start.
            encoder_out: what the encoder returned.
            incremental_state: fairseq's cache. Without `layout` a step predicts the next target.
            layout: which slots there are and what they see; default: the model's own mode.
            positions: position of each main token where it is not its index + 1, (B, T).
            select: True at the slots whose logits are wanted, (B, G*K); default: all.
        Returns:
            Logits (B, G*K, V), (B, T, V) in the default layouts; with `select` (selected, V). Second a dict with `attn`, the last layer's attention on the source
            averaged over heads (B, queries, S), or None.
        """
        length = prev_output_tokens.size(1)
        if layout is None:
            layout = self.default_layout(length) if incremental_state is None else visibility.next_block(length, 1)
        x, attn = self.extract_features(prev_output_tokens, encoder_out, incremental_state, layout, positions)
        if select is not None:
            return self.output_layer(x[select]), {"attn": [attn]}
        return self.output_layer(x), {"attn": [attn]}

    def extract_features(self, prev_output_tokens, encoder_out, incremental_state, layout, positions=None):
        """As `forward`, up to the slots' features, (B, G*K, D)."""
        device = prev_output_tokens.device
        cached = self.layers[0].ngram_self_attn.cached_length(incremental_state)
        past_main, past_slots = (cached, 0) if layout.main_length else (0, cached)
        table = bucket_tensor(self.num_buckets, self.relative_max_distance, device)
        view = make_view(layout, positions, past_main, past_slots, table, device)
        if positions is None:
            last = max(layout.main_length, past_slots + layout.last_target + 1)
            positions = visibility.main_position(torch.arange(last, device=device))[None]
        target = layout_tensors(layout, device)[0] + past_slots
        x = self._embed(prev_output_tokens[:, past_main:], layout, target, positions, past_main).transpose(0, 1)

        source = encoder_out["encoder_out"][0]
        source_padding = encoder_out["encoder_padding_mask"][0] if encoder_out["encoder_padding_mask"] else None
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            x, attn = layer(
                x,
                view,
                source,
                source_padding,
                incremental_state,
                main_output=not last,
                need_attn=last and self.need_attn,
            )
        return x.transpose(0, 1), attn

    def _embed(self, new_tokens: Tensor, layout: Layout, target: Tensor, positions: Tensor, past_main: int) -> Tensor:
        """New main tokens (B, M), then the slots: (B, M + G*K, D)."""
        table = self.embed_positions.weight
        limit = len(table) - 1
        slot_at = slot_positions(target, positions).clamp(max=limit).flatten(1)
        slots = self.ngram_input_embed.weight[0] + F.embedding(slot_at, table, self.padding_idx)
        x = slots.expand(len(new_tokens), -1, -1)
        if layout.main_length:
            main_at = positions[:, past_main : layout.main_length]
            main = self.embed_tokens(new_tokens) + F.embedding(main_at, table, self.padding_idx)
            x = torch.cat([main, x], dim=1)
        elif self.training and self.embed_out is not None:
            # nothing else of this pass uses the embedding; pytorch's DDP waits for every gradient
            x = x + 0 * self.embed_tokens.weight[0].sum()
        return self.dropout_module(self.emb_layer_norm(x))

    @property
    def output_weight(self) -> Tensor:
        """(V, D)"""
        return self.embed_tokens.weight if self.embed_out is None else self.embed_out

    def output_layer(self, features: Tensor) -> Tensor:
        """(..., D) to (..., V)"""
        return F.linear(features, self.output_weight)

    def max_positions(self) -> int:
        return self.max_target_positions

    def make_generation_fast_(self, need_attn: bool = False, **unused):
        """fairseq's hook before generation: attention on the source is kept for --print-alignment alone."""
        self.need_attn = need_attn
