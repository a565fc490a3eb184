"""Decoding with cached keys and values: a pass over the new tokens and slots of each row.

Shapes: B rows, A sentences (B is a multiple: the beams of a sentence share its source), S source
length, N queries of a pass, C columns of the cache, P columns that a pass looks at, J uncached
slots, H heads, d head width, D = H * d, L layers, R buckets.

Inference alone: no dropout. The weights and the rule are those of `attention` and `decoder`; here
all queries and keys of a pass meet in one attention, which is quick for a few queries.
"""

import copy
import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import visibility
from .attention import bucket_tensor


def send(x: np.ndarray, device: torch.device) -> Tensor:
    """An array on a device; to a GPU from pinned memory, so that the host does not wait for the copy."""
    found = torch.from_numpy(np.ascontiguousarray(x))
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)


class PassMasks(NamedTuple):
    """Where the queries of a pass stand and what they see; made once a pass, for all layers.

    The leading dimension is 1 where all rows are alike.
    """

    cached: int  # the first so many queries put their keys and values into the cache
    columns: int | Tensor  # where: from this column on, or columns (B, cached)
    width: int  # P
    position: Tensor  # absolute positions of the queries, (1|B, N)
    hidden: Tensor  # keys that a query must not see, (1|B, 1, N, P + J)
    bucket: Tensor  # relative-position buckets, (1|B, 1, N, P + J)


def make_pass_masks(
    position: np.ndarray,
    last: np.ndarray,
    first: np.ndarray,
    cached: int,
    block_sizes: tuple[int, ...],
    key_position,
    buckets: tuple[int, int],
    device: torch.device,
) -> PassMasks:
    """Makes the masks of rows that stand at columns of their own, or of one row that stands for all.

    Args:
        position, last: of each query: absolute position, last column it sees, (1|B, N).
        first: column of the first cached query, (1|B).
        cached: number of queries that are cached; the others are slots.
        block_sizes: blocks of the slots that are not cached.
        key_position: absolute position of a column.
        buckets: number of buckets, maximal distance.
    """
    width = int(first.max()) + cached
    block, index = visibility.places(block_sizes)
    no_slot = np.full(cached, -1)
    places = np.concatenate([no_slot, block]), np.concatenate([no_slot, index])
    arrays: list[Any] = [position, last, key_position(np.arange(width)), np.arange(width), *places]
    if device.type == "cpu":
        seen, bucket = visibility.pass_visibility(np, visibility.bucket_table(*buckets), cached, *arrays)
    else:
        arrays = [send(x, device) for x in arrays]
        seen, bucket = visibility.pass_visibility(torch, bucket_tensor(*buckets, device), cached, *arrays)
    columns: int | Tensor = int(first[0])
    if len(first) > 1 and (first != first[0]).any():
        columns = send(first[:, None] + np.arange(cached), device)
    at, hidden, bucket = map(torch.as_tensor, (arrays[0], ~seen, bucket))
    return PassMasks(cached, columns, width, at, hidden[:, None], bucket[:, None])


_KEPT = 1 << 14
"""Most pairs of a query and a key of masks that are kept, 9 bytes each: larger ones cost little beside their pass, and would
fill the memory where texts of all lengths come."""


def plain_pass_masks(
    first: int, cached: int, anchors: tuple[int, ...] | None, block_sizes: tuple[int, ...], buckets, device
) -> PassMasks:
    """The masks of a pass in which all rows stand alike; small ones are kept by its numbers.

    Args:
        first: column of the first cached query.
        anchors: of the blocks; None: NAR, whose slots are cached themselves.
        block_sizes: of each block.
    """
    queries = cached + (0 if anchors is None else sum(block_sizes))
    given = first, cached, anchors, block_sizes, buckets, device
    return _kept_pass_masks(*given) if queries * (first + queries) <= _KEPT else _plain_pass_masks(*given)


def _plain_pass_masks(
    first: int, cached: int, anchors: tuple[int, ...] | None, block_sizes: tuple[int, ...], buckets, device
) -> PassMasks:
    with torch.inference_mode(False):
        column = first + np.arange(cached)
        if anchors is None:
            position, last, block_sizes, key_position = (
                visibility.slot_position(column), column, (), visibility.slot_position,
            )  # fmt: skip
        else:
            block, index = visibility.places(block_sizes)
            anchor = np.array(anchors)[block]
            slots = visibility.slot_position(anchor + index)
            position = np.concatenate([visibility.main_position(column), slots])
            last, key_position = np.concatenate([column, anchor]), visibility.main_position
        start = np.array([first])
        return make_pass_masks(position[None], last[None], start, cached, block_sizes, key_position, buckets, device)


_kept_pass_masks = functools.lru_cache(maxsize=1024)(_plain_pass_masks)


class Cache:
    """Keys and values of a batch: of the source, made once, and of what has been decoded.

    Args:
        decoder: the `BangDecoder`.
        encoder_out: what the encoder returned for A sentences.
        rows: B, a multiple of A.
    """

    def __init__(self, decoder, encoder_out: dict, rows: int):
        source = encoder_out["encoder_out"][0].transpose(0, 1)  # (A, S, width of the encoder)
        padding = encoder_out["encoder_padding_mask"]
        self.padding = padding[0][:, None, None] if padding else None  # (A, 1, 1, S), True at pads
        self.source_mask: Tensor | None = None
        if self.padding is not None:
            self.source_mask = torch.zeros_like(self.padding, dtype=source.dtype).masked_fill_(self.padding, -torch.inf)
        projections = [(layer.encoder_attn.k_proj, layer.encoder_attn.v_proj) for layer in decoder.layers]
        heads = decoder.layers[0].ngram_self_attn.num_heads
        self.source = [tuple(_heads(project(source), heads) for project in pair) for pair in projections]
        self.rows, self.length = rows, 0
        width = self.source[0][0].size(3)  # the encoder may be wider than the decoder
        self.kept = source.new_zeros(len(decoder.layers), 2, rows, heads, 0, width)  # (L, 2, B, H, C, d)

    def reserve(self, columns: int) -> None:
        """Makes room for so many columns.

        New columns hold zeros, which are hidden, but must be finite: a weight of 0 times NaN is NaN.
        """
        have = self.kept.size(4)
        if columns > have:
            grown = self.kept.new_zeros(*self.kept.shape[:4], max(2 * have, columns + 32), self.kept.size(5))
            grown[:, :, :, :, :have] = self.kept
            self.kept = grown

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows, (B'), in this order. Beams of a sentence stay side by side."""
        beams = self.rows // len(self.source[0][0])
        if beams == 1 or len(rows) != self.rows:
            self._keep_sources(rows.view(-1, beams)[:, 0] // beams)
        self.kept = self.kept.index_select(2, rows)
        self.rows = len(rows)

    def forked(self) -> "Cache":
        """Another cache of the same source, with nothing decoded."""
        found = copy.copy(self)
        found.kept, found.length = self.kept[:, :, :, :, :0], 0
        return found

    def _keep_sources(self, sentences: Tensor) -> None:
        self.source = [tuple(x.index_select(0, sentences) for x in pair) for pair in self.source]
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, sentences)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) to (B, H, N, d)"""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """(B, H, N, d) to (B, N, D)"""
    return x.transpose(1, 2).flatten(2)


def run_layers(decoder, cache: Cache, x: Tensor, masks: PassMasks) -> tuple[Tensor, Tensor | None]:
    """Runs the layers over embedded queries.

    Args:
        x: (B, N, D).
    Returns:
        Features of the slots, (B, slots, D), and, if the decoder is to keep it, the last layer's
        attention on the source averaged over heads, (B, slots, S).
    """
    cache.reserve(masks.width + x.size(1) - masks.cached)
    attn = None
    for index, layer in enumerate(decoder.layers):
        last = index == len(decoder.layers) - 1
        # main tokens give keys and values alone in the last layer
        skip = masks.cached if last and masks.cached < x.size(1) else 0
        out = _attend_target(layer.ngram_self_attn, x, masks, cache.kept[index], skip)
        x = layer.self_attn_layer_norm(x[:, skip:] + out)
        out, attn = _attend_source(layer.encoder_attn, x, cache.source[index], cache.source_mask, last and decoder.need_attn)
        x = layer.encoder_attn_layer_norm(x + out)
        x = layer.final_layer_norm(x + layer.fc2(layer.activation_fn(layer.fc1(x))))
    return x, attn


def _attend_target(module, x: Tensor, masks: PassMasks, kept: Tensor, skip: int) -> Tensor:
    """Self-attention of the queries from `skip` on, (B, N - skip, D).

    Args:
        module: the `NgramSelfAttention`.
        kept: keys and values of the layer, (2, B, H, C, d); new ones are written there. Slots that
            are not cached stand for this pass alone behind the P columns.
    """
    heads, dim = module.num_heads, x.size(2)
    weight, bias = module.in_proj_weight, module.in_proj_bias
    if skip:
        q = F.linear(x[:, skip:], weight[:dim], bias[:dim])
        k, v = F.linear(x, weight[dim:], bias[dim:]).chunk(2, dim=2)
    else:
        q, k, v = F.linear(x, weight, bias).chunk(3, dim=2)
    cached, width = masks.cached, masks.width
    end = width + x.size(1) - cached
    for buffer, new in zip(kept, (_heads(k, heads), _heads(v, heads))):
        if isinstance(masks.columns, int):
            buffer[:, :, masks.columns : end] = new
        else:
            rows = torch.arange(len(x), device=x.device)[:, None]
            buffer[rows, :, masks.columns] = new[:, :, :cached].transpose(1, 2)
            buffer[:, :, width:end] = new[:, :, cached:]
    # (B, N, R * H) to the term of each pair, (B, H, N, P + J)
    relative = module.relative_linear(x[:, skip:]).unflatten(2, (module.num_buckets, heads)).permute(0, 3, 1, 2)
    bucket = masks.bucket[:, :, skip:]
    relative = relative.gather(3, bucket.expand(len(x), heads, *bucket.shape[2:]))
    relative = relative.masked_fill(masks.hidden[:, :, skip:], -torch.inf)
    out = F.scaled_dot_product_attention(_heads(q, heads), kept[0, :, :, :end], kept[1, :, :, :end], attn_mask=relative)
    return module.out_proj(_merge(out))


def _attend_source(module, x: Tensor, source, mask: Tensor | None, need_attn: bool):
    """Attention on the source, (B, N, D), and its weights (B, N, S) if asked for.

    Args:
        module: fairseq's MultiheadAttention.
        source: keys and values, (A, H, S, d) each. mask: 0, or -inf at pads, (A, 1, 1, S).
    """
    k, v = source
    rows, queries, _ = x.shape
    beams = rows // len(k)
    q = _heads(module.q_proj(x).view(len(k), beams * queries, -1), k.size(1))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out = module.out_proj(_merge(out).view(rows, queries, -1))
    if not need_attn:
        return out, None
    logits = q @ k.transpose(2, 3) * k.size(3) ** -0.5
    weights = (logits if mask is None else logits + mask).softmax(-1)
    return out, weights.mean(1).view(rows, queries, -1)
