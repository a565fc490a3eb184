"""The decoder: a main stream of real tokens and blocks of mask slots that predict.

Shapes: B batch, T target length, S source length, P main tokens, G blocks of K slots, D width, V
vocabulary.
"""

import torch
from fairseq import utils
from fairseq.models import FairseqIncrementalDecoder
from fairseq.modules import FairseqDropout, LayerNorm, LearnedPositionalEmbedding, MultiheadAttention
from torch import Tensor, nn
from torch.nn import functional as F

from .. import visibility
from ..visibility import Layout
from .attention import (
    LayoutMasks,
    NgramSelfAttention,
    bucket_tensor,
    layout_tensors,
    make_layout_masks,
    side_by_side,
    slot_positions,
)
from .config import BangConfig
from .packed import PackedProduct
from .stepping import Cache, PassMasks, plain_pass_masks, run_layers

CACHE = "bang.cache"
"""Where the keys and values lie in fairseq's incremental state."""


class BangDecoderLayer(nn.Module):
    """Post-norm: multi-stream self-attention, attention on the source, feed-forward."""

    def __init__(self, cfg: BangConfig):
        super().__init__()
        dim = cfg.decoder_embed_dim
        self.ngram_self_attn = NgramSelfAttention(dim, cfg.decoder_attention_heads, cfg.attention_dropout, cfg.num_buckets)
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
        masks: LayoutMasks,
        source: Tensor,
        source_padding: Tensor | None,
        main_output: bool = True,
        need_attn: bool = False,
    ):
        """
        Args:
            x: main tokens, then slots, (P + G*K, B, D).
            source: encoder output, (S, B, D).
            source_padding: True at pads, (B, S).
            main_output: False: return the slots alone.
        Returns:
            (P + G*K or G*K, B, D), and the attention on the source (B, queries, S) if asked for.
        """
        residual = x if main_output else x[masks.main :]
        x = self.ngram_self_attn(x, masks, main_output)
        x = self.self_attn_layer_norm(residual + self.dropout_module(x))
        residual = x
        x, attn = self.encoder_attn(
            query=x,
            key=source,
            value=source,
            key_padding_mask=source_padding,
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
        self.buckets = cfg.num_buckets, cfg.relative_max_distance
        self.max_target_positions = cfg.max_target_positions
        # a slot stands one position after its main token, hence one row more than fairseq's table
        self.embed_positions = LearnedPositionalEmbedding(cfg.max_target_positions + 2, cfg.decoder_embed_dim, self.padding_idx)
        self.ngram_input_embed = nn.Embedding(1, cfg.decoder_embed_dim)
        self.emb_layer_norm = LayerNorm(cfg.decoder_embed_dim)
        self.dropout_module = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)
        self.layers = nn.ModuleList(BangDecoderLayer(cfg) for _ in range(cfg.decoder_layers))
        self.embed_out = None
        if not cfg.share_decoder_input_output_embed:
            self.embed_out = nn.Parameter(torch.empty(len(dictionary), cfg.decoder_embed_dim).normal_(std=0.02))
        self._product = PackedProduct()
        self.need_attn = False

    def forward(self, *args, **kwargs):
        """Logits (B, G*K, V) of the slots, else as `extract_features`, whose arguments it takes."""
        x, extra = self.extract_features(*args, **kwargs)
        return self.output_layer(x), extra

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict,
        incremental_state: dict | None = None,
        layout: Layout | None = None,
        positions: Tensor | None = None,
    ):
        """
        Args:
            prev_output_tokens: main tokens, (B, T); a pass without a main stream takes the batch
                size and, without `layout`, the length from it. With a cache, all since the start.
            encoder_out: what the encoder returned.
            incremental_state: fairseq's cache: the step that predicts the token after the last, AR.
            layout: which slots there are and what they see; default: the model's own mode.
            positions: position of each main token where it is not its index + 1, (B, T).
        Returns:
            The slots' features (B, G*K, D), (B, T, D) in the default layouts, (B, 1, D) with a cache.
            Second a dict with `attn`, the last layer's attention on the source averaged over heads
            (B, queries, S), or None.
        """
        if incremental_state is not None:
            assert layout is None and positions is None, "fairseq's cache serves AR steps alone"
            return self._next(prev_output_tokens, encoder_out, incremental_state)
        if layout is None:
            layout = self.default_layout(prev_output_tokens.size(1))
        device = prev_output_tokens.device
        masks = make_layout_masks(layout, positions, bucket_tensor(*self.buckets, device))
        if positions is None:
            positions = side_by_side(layout, device)
        target, _ = layout_tensors(layout, device)
        x = self._embed(
            prev_output_tokens[:, : layout.main_length],
            torch.cat([positions[:, : layout.main_length], slot_positions(target, positions).flatten(1)], dim=1),
        )
        if not layout.main_length and self.training and self.embed_out is not None:
            # nothing else of this pass uses the embedding; pytorch's DDP waits for every gradient
            x = x + 0 * self.embed_tokens.weight[0].sum()
        x = self.dropout_module(x).transpose(0, 1)
        source = encoder_out["encoder_out"][0]
        source_padding = encoder_out["encoder_padding_mask"][0] if encoder_out["encoder_padding_mask"] else None
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            x, attn = layer(
                x, masks, source, source_padding, main_output=not last, need_attn=last and self.need_attn
            )  # fmt: skip
        return x.transpose(0, 1), {"attn": [attn], "inner_states": None}

    def _embed(self, main_tokens: Tensor, position: Tensor) -> Tensor:
        """Main tokens (B, P) and then slots, standing at `position` (1|B, N), to (B, N, D)."""
        table = self.embed_positions.weight
        batch, main = main_tokens.shape
        # what stands past the table's end is padding, or a slot behind the last target
        at = F.embedding(position.clamp(max=len(table) - 1), table, self.padding_idx)
        x = (self.ngram_input_embed.weight[0] + at[:, main:]).expand(batch, -1, -1)
        if main:
            x = torch.cat([self.embed_tokens(main_tokens) + at[:, :main], x], dim=1)
        return self.emb_layer_norm(x)

    def step(self, main_tokens: Tensor, masks: PassMasks, cache: Cache):
        """A decoding pass: the features of its slots, (B, slots, D), and attention as in `extract_features`.

        Args:
            main_tokens: new main tokens of each row, (B, M); M is 0 in NAR.
            masks: where they and the slots stand and what they see.
            cache: takes the new keys and values.
        """
        assert not self.training, "decoding steps have no dropout: call eval() first"
        x, attn = run_layers(self, cache, self._embed(main_tokens, masks.position), masks)
        return x, {"attn": [attn], "inner_states": None}

    def _next(self, tokens: Tensor, encoder_out: dict, incremental_state: dict):
        """The slot after the last main token; keys and values of those before are cached."""
        cache = incremental_state.get(CACHE)
        if cache is None:
            cache = incremental_state[CACHE] = Cache(self, encoder_out, len(tokens))
        past, length = cache.length, tokens.size(1)
        masks = plain_pass_masks(past, length - past, (length - 1,), (1,), self.buckets, tokens.device)
        cache.length = length
        return self.step(tokens[:, past:], masks, cache)

    def reorder_incremental_state_scripting(self, incremental_state: dict, new_order: Tensor) -> None:
        """fairseq's hook between steps: beams chosen, sentences finished."""
        if CACHE in incremental_state:
            incremental_state[CACHE].keep(new_order)

    @property
    def output_weight(self) -> Tensor:
        """(V, D)"""
        return self.embed_tokens.weight if self.embed_out is None else self.embed_out

    def output_layer(self, features: Tensor) -> Tensor:
        """(..., D) to (..., V)"""
        return self._product(features, self.output_weight)

    def train(self, mode: bool = True):
        if mode:
            self._product.forget()
        return super().train(mode)

    def max_positions(self) -> int:
        return self.max_target_positions

    def make_generation_fast_(self, need_attn: bool = False, **unused):
        """fairseq's hook before generation: attention on the source is kept for --print-alignment alone."""
        self.need_attn = need_attn
