"""The network as two graphs that export to ONNX: an encoder, and one decoder for every mode.

Shapes: B batch, S source length, H heads, d head width, D = H * d, M new main tokens, N slots,
Q = M + N queries, C cached keys, R buckets, V vocabulary, L decoder layers, k candidates.

The numbers are those of `bang.network`; the scale of the queries is in their weights. Keys and values go without
their biases: a bias of keys adds the same to all logits of a query, and one of values, since attention weights add up
to 1, the same to all outputs, so that it is in the bias of the output. Queries, keys, values and relative terms come
from products of their own: of one product, cutting its result apart would cost more than it saves. The encoder gives
the keys and values of every decoder layer's cross-attention. The decoder does not know the modes: what a query sees and
how far away it is come in as `sees` and `bucket`, which the caller makes by `bang.visibility`.
"""

from collections.abc import Sequence

import torch
from fairseq import utils
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn
from torch.nn import functional as F

from ..network.decoder import BangDecoderLayer
from ..network.model import BangModel


def _as_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.size(1), weight.size(0))
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


def _scaled(layer: nn.Linear, scale: float) -> nn.Linear:
    return _as_linear(layer.weight * scale, layer.bias * scale)


def _without_bias(layer: nn.Linear) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
    plain.weight = nn.Parameter(layer.weight.detach())
    return plain


def _output(layer: nn.Linear, values_bias: Tensor) -> nn.Linear:
    """The layer behind an attention whose values lack their bias."""
    bias = layer.bias.double() + layer.weight.double() @ values_bias.double()
    return _as_linear(layer.weight, bias.to(layer.weight))


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, H * d) to (B, H, L, d)"""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """(B, H, L, d) to (B, L, H * d)"""
    return x.transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """fc2(activation(fc1(x))), residual and norm."""

    def __init__(self, layer: BangDecoderLayer | TransformerEncoderLayerBase, activation: str):
        super().__init__()
        self.fc1, self.fc2, self.norm = layer.fc1, layer.fc2, layer.final_layer_norm
        self.activation = utils.get_activation_fn(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.fc2(self.activation(self.fc1(x))))


class EncoderLayer(nn.Module):
    """Post-norm self-attention and feed-forward."""

    def __init__(self, layer: TransformerEncoderLayerBase, activation: str):
        super().__init__()
        attention = layer.self_attn
        self.heads = attention.num_heads
        self.query = _scaled(attention.q_proj, attention.head_dim**-0.5)
        self.key, self.value = map(_without_bias, (attention.k_proj, attention.v_proj))
        self.out_proj, self.norm = _output(attention.out_proj, attention.v_proj.bias), layer.self_attn_layer_norm
        self.feed_forward = FeedForward(layer, activation)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """
        Args:
            x: (B, S, D).
            hidden: what is added to the logits, -inf at pads, (B, 1, 1, S).
        """
        q, k, v = (_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        attended = torch.softmax(q @ k.transpose(2, 3) + hidden, dim=-1) @ v
        return self.feed_forward(self.norm(x + self.out_proj(_joined(attended))))


class EncoderGraph(nn.Module):
    """Source to the keys and values of every decoder layer's cross-attention, computed once a text."""

    def __init__(self, model: BangModel):
        super().__init__()
        encoder, cfg = model.encoder, model.cfg
        self.pad = encoder.padding_idx
        self.embed_tokens, self.embed_positions = encoder.embed_tokens, encoder.embed_positions.weight
        self.norm = encoder.emb_layer_norm
        self.layers = nn.ModuleList(EncoderLayer(layer, cfg.activation_fn) for layer in encoder.layers)
        cross = [layer.encoder_attn for layer in model.decoder.layers]
        self.heads, self.width = cross[0].num_heads, cross[0].embed_dim
        keys_values = (proj for attention in cross for proj in (attention.k_proj, attention.v_proj))
        self.keys_values = nn.ModuleList(map(_without_bias, keys_values))

    def forward(self, source: Tensor) -> list[Tensor]:
        """
        Args:
            source: piece ids, pads on the right, (B, S).
        Returns:
            Key and value of layer 0, of layer 1 …, each (B, H, S, d).
        """
        real = source.ne(self.pad)
        # fairseq's positions: those of pads are the padding row, the others count from the one after it
        position = real.long().cumsum(1) * real.long() + self.pad
        x = self.norm(self.embed_tokens(source) + F.embedding(position, self.embed_positions))
        x = x * real[:, :, None].to(x)
        hidden = _hidden(real, x)[:, None, None]
        for layer in self.layers:
            x = layer(x, hidden)
        return [_heads(project(x), self.heads) for project in self.keys_values]


def _product_of_one_row(a: Tensor, b: Tensor) -> Tensor:
    """a (B, H, Q, n) @ b (B, H, n, m), with the same digits however many rows a has.

    For one row onnxruntime has a kernel that adds up in another order, and greedy AR has one row where speculative decoding
    has several.
    """
    return (torch.cat([a, a[:, :, -1:]], 2) @ b)[:, :, :-1]


def _hidden(sees: Tensor, like: Tensor) -> Tensor:
    """What is added to attention logits: 0 where a query sees, the lowest number of the type elsewhere."""
    return torch.where(sees, 0.0, torch.finfo(like.dtype).min).to(like)


class DecoderLayer(nn.Module):
    """Post-norm: multi-stream self-attention, attention on the source, feed-forward."""

    def __init__(self, layer: BangDecoderLayer, activation: str, is_last: bool):
        super().__init__()
        self.is_last = is_last  # where main tokens end, so that one query may be left
        attention, cross = layer.ngram_self_attn, layer.encoder_attn
        self.heads, self.buckets = attention.num_heads, attention.num_buckets
        query, key, value = map(_as_linear, attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3))
        self.query, self.key, self.value = _scaled(query, attention.scaling), _without_bias(key), _without_bias(value)
        self.relative = attention.relative_linear
        self.out_proj, self.norm = _output(attention.out_proj, value.bias), layer.self_attn_layer_norm
        self.cross_query = _scaled(cross.q_proj, cross.head_dim**-0.5)
        self.cross_out, self.cross_norm = _output(cross.out_proj, cross.v_proj.bias), layer.encoder_attn_layer_norm
        self.feed_forward = FeedForward(layer, activation)

    def forward(self, x, hidden, ones, bucket, cache_k, cache_v, source_k, source_v, source_hidden, first: int):
        """
        Args:
            x: main tokens, then slots, (B, Q, D).
            hidden: what is added to the logits, (B, 1, Q, C + Q).
            ones: 1, (C + Q, 2); of one column the product would be of another kernel.
            bucket: bucket of each query and key, (B, H, Q, C + Q).
            cache_k, cache_v: earlier keys and values, (B, H, C, d).
            source_k, source_v: those of the cross-attention, (B, H, S, d).
            source_hidden: what is added to its logits, (B, 1, 1, S).
            first: queries before this one give keys and values alone.
        Returns:
            (B, Q - first, D), and the new keys and values (B, H, Q, d).
        """
        new_k, new_v = (_heads(project(x), self.heads) for project in (self.key, self.value))
        x = x[:, first:]
        q = _heads(self.query(x), self.heads)
        relative = self.relative(x).unflatten(2, (self.buckets, self.heads)).permute(0, 3, 1, 2)
        k, v = torch.cat([cache_k, new_k], 2), torch.cat([cache_v, new_v], 2)
        product = _product_of_one_row if self.is_last else torch.matmul
        logits = product(q, k.transpose(2, 3)) + relative.gather(3, bucket[:, :, first:]) + hidden[:, :, first:]
        # softmax by products, which add up key by key: keys that are hidden, wherever they stand, change no last digit
        weights = torch.exp(logits - logits.amax(-1, keepdim=True))
        total = weights @ ones
        x = self.norm(x + self.out_proj(_joined(product(weights, v) / total[..., :1])))
        logits = product(_heads(self.cross_query(x), self.heads), source_k.transpose(2, 3)) + source_hidden
        x = self.cross_norm(x + self.cross_out(_joined(product(torch.softmax(logits, dim=-1), source_v))))
        return self.feed_forward(x), new_k, new_v


class DecoderGraph(nn.Module):
    """One pass of the decoder in any mode: main tokens and slots in, log-probabilities of each slot out.

    Args:
        specials: ids of pad, unk and eos, which the rules of choice look at.
    """

    specials: Tensor

    def __init__(self, model: BangModel, specials: Sequence[int]):
        super().__init__()
        decoder, cfg = model.decoder, model.cfg
        self.register_buffer("specials", torch.tensor(specials))
        self.embed_tokens, self.embed_positions = decoder.embed_tokens, decoder.embed_positions.weight
        self.slot, self.norm = decoder.ngram_input_embed.weight, decoder.emb_layer_norm
        self.layers = nn.ModuleList(
            DecoderLayer(layer, cfg.activation_fn, is_last=layer is decoder.layers[-1]) for layer in decoder.layers
        )
        tied = decoder.embed_out is None
        # a transposed copy of its own, so that quantization need not transpose it at every pass
        output = decoder.embed_tokens.weight if tied else decoder.embed_out
        self.output = nn.Parameter(output.detach().t().clone())

    def forward(self, main_tokens, main_positions, slot_positions, sees, bucket, source_real, cache, source) -> tuple:
        """
        Args:
            main_tokens: new ones, (B, M); M may be 0.
            main_positions: their absolute positions, (B, M).
            slot_positions: absolute positions of the slots, (B, N).
            sees: True where a query (main tokens, then slots) sees a key (cached, main tokens, slots),
                (B, Q, C + Q).
            bucket: bucket of their distance, (B, Q, C + Q).
            source_real: False at pads, (B, S).
            cache: key and value of layer 0, of layer 1 …, each (B, H, C, d).
            source: what the encoder gave, each (B, H, S, d).
        Returns:
            Log-probabilities of the slots (B, N, V), those of `specials` (B, N, 3), then new keys and
            values as in `cache`, (B, H, Q, d).
        """
        main = main_tokens.size(1)
        embedded = self.embed_tokens(main_tokens) + F.embedding(main_positions, self.embed_positions)
        slots = self.slot + F.embedding(slot_positions, self.embed_positions)
        x = self.norm(torch.cat([embedded, slots], 1))
        hidden, source_hidden = _hidden(sees, x)[:, None], _hidden(source_real, x)[:, None, None]
        bucket = bucket[:, None].expand(-1, self.layers[0].heads, -1, -1)
        ones = x.new_ones(hidden.size(3), 2)
        new = []
        for index, layer in enumerate(self.layers):
            pair = slice(2 * index, 2 * index + 2)
            x, *kv = layer(
                x, hidden, ones, bucket, *cache[pair], *source[pair], source_hidden, first=main if layer.is_last else 0
            )
            new += kv
        log_probs = torch.log_softmax((x @ self.output).float(), dim=-1)
        return log_probs, log_probs.index_select(2, self.specials), *new
