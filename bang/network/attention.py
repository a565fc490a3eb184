"""Multi-stream self-attention of the decoder: one attention for every mode.

Shapes: B batch, H heads, d head width, D = H * d, P main tokens, G blocks of K slots, R buckets.
"""

import functools
from typing import NamedTuple

import torch
from fairseq import utils
from fairseq.modules import FairseqDropout
from torch import Tensor, nn
from torch.nn import functional as F

from .. import visibility
from ..visibility import Layout


class LayoutMasks(NamedTuple):
    """What every layer's attention needs to know of a layout; made once a pass.

    The bucket tables have a batch dimension of 1 or B in front, `hidden` means must not see.
    """

    main: int  # P
    main_hidden: Tensor  # (P, P)
    main_bucket: Tensor  # (1|B, P, P)
    groups: int  # G
    slot_main_hidden: Tensor  # (G * K, P)
    slot_main_bucket: Tensor  # (1|B, G * K, P)
    slot_hidden: Tensor  # (K, K)
    slot_bucket: Tensor  # (1|B, G, K, K)


@functools.lru_cache(maxsize=1024)
def layout_tensors(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """A layout's targets (G, K) and anchors (G) on a device, kept: no transfer at each update."""
    with torch.inference_mode(False):  # what is kept may meet a backward pass later
        return torch.as_tensor(layout.target, device=device), torch.as_tensor(layout.anchor, device=device)


@functools.cache
def bucket_tensor(num_buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """`visibility.bucket_table` on a device."""
    with torch.inference_mode(False):
        return torch.tensor(visibility.bucket_table(num_buckets, max_distance), device=device)


def make_layout_masks(layout: Layout, positions: Tensor | None, table: Tensor) -> LayoutMasks:
    """Turns a layout into masks and buckets.

    Args:
        layout: the blocks.
        positions: position of each target's main token, (B, >= last target + 1); None: side by side.
        table: bucket of each distance.
    """
    return _plain_layout_masks(layout, table) if positions is None else _layout_masks(layout, positions, table)


@functools.lru_cache(maxsize=64)
def _plain_layout_masks(layout: Layout, table: Tensor) -> LayoutMasks:
    with torch.inference_mode(False):
        return _layout_masks(layout, side_by_side(layout, table.device), table)


def side_by_side(layout: Layout, device: torch.device) -> Tensor:
    """Positions of the main tokens where the text runs on without gaps, (1, last target + 1)."""
    return visibility.main_position(torch.arange(max(layout.main_length, layout.last_target + 1), device=device))[None]


def _layout_masks(layout: Layout, positions: Tensor, table: Tensor) -> LayoutMasks:
    target, anchor = layout_tensors(layout, positions.device)
    main = torch.arange(layout.main_length, device=positions.device)
    slot = torch.arange(layout.block_size, device=positions.device)
    block = torch.zeros_like(slot)  # they are all in one
    main_at = positions[:, : layout.main_length]
    slot_at = slot_positions(target, positions)  # (1|B, G, K)

    def buckets(query: Tensor, key: Tensor) -> Tensor:
        return visibility.bucket(visibility.distance(query, key), table)

    return LayoutMasks(
        main=layout.main_length,
        main_hidden=~visibility.sees_main(main, main),
        main_bucket=buckets(main_at, main_at),
        groups=layout.groups,
        slot_main_hidden=~visibility.sees_main(anchor, main).repeat_interleave(layout.block_size, dim=0),
        slot_main_bucket=buckets(slot_at.flatten(1), main_at),
        slot_hidden=~visibility.sees_slot(block, slot, block, slot),
        slot_bucket=buckets(slot_at, slot_at),
    )


def slot_positions(target: Tensor, positions: Tensor) -> Tensor:
    """Absolute positions of the slots of targets (...): (1|B, ...), one after their main tokens'.

    Args:
        positions: of the targets' main tokens, (1|B, T). Slots past the end get the last one's.
    """
    return positions[:, target.clamp(max=positions.size(1) - 1)] + 1


class NgramSelfAttention(nn.Module):
    """Self-attention over main tokens and blocks of slots, with a content-dependent relative term.

    To the logit of query i and key j is added `relative_linear(h_i)[bucket(i, j), head]`, where h
    is the layer's input. Main keys cost G*K*P, slot keys G*K*J (see `visibility`).

    Args:
        embed_dim: D.
        num_heads: H.
        dropout: probability of dropping an attention weight.
        num_buckets: R.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, num_buckets: int):
        super().__init__()
        assert embed_dim % num_heads == 0
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.scaling = (embed_dim // num_heads) ** -0.5
        self.dropout_module = FairseqDropout(dropout, module_name=self.__class__.__name__)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))  # rows: q, k, v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.relative_linear = nn.Linear(embed_dim, num_buckets * num_heads)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, masks: LayoutMasks, main_output: bool = True) -> Tensor:
        """
        Args:
            x: main tokens, then the slots block by block, (P + G*K, B, D).
            masks: what each of them sees.
            main_output: False in the last layer, where only keys and values of the main tokens
                are of use.
        Returns:
            (P + G*K, B, D), or (G*K, B, D) without main_output.
        """
        length, batch, dim = x.shape
        main, skip = masks.main, 0 if main_output else masks.main
        if skip:
            q = F.linear(x[skip:], self.in_proj_weight[:dim], self.in_proj_bias[:dim])
            k, v = F.linear(x, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, dim=-1)
        else:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        q = self._heads(q * self.scaling)
        relative = self.relative_linear(x[skip:]).view(length - skip, batch, self.num_buckets, self.num_heads)
        relative = relative.permute(1, 3, 0, 2)  # (B, H, queries, R)
        main_k, slot_k = self._heads(k).split([main, length - main], dim=2)
        main_v, slot_v = self._heads(v).split([main, length - main], dim=2)

        slots = slice(main - skip, None)
        out = self._slots(q[:, :, slots], relative[:, :, slots], main_k, main_v, slot_k, slot_v, masks)
        if main > skip:
            out = torch.cat([self._main(q[:, :, :main], relative[:, :, :main], main_k, main_v, masks), out], dim=2)
        return self.out_proj(out.permute(2, 0, 1, 3).reshape(out.size(2), batch, dim))

    def _heads(self, x: Tensor) -> Tensor:
        """(L, B, D) to (B, H, L, d)"""
        length, batch, _ = x.shape
        return x.view(length, batch, self.num_heads, -1).permute(1, 2, 0, 3)

    def _weights(self, logits: Tensor) -> Tensor:
        return self.dropout_module(utils.softmax(logits, dim=-1).type_as(logits))

    def _main(self, q, relative, k, v, masks: LayoutMasks) -> Tensor:
        logits = q @ k.transpose(2, 3) + _relative_term(relative, masks.main_bucket)
        return self._weights(logits.masked_fill(masks.main_hidden, float("-inf"))) @ v

    def _slots(self, q, relative, main_k, main_v, slot_k, slot_v, masks: LayoutMasks) -> Tensor:
        batch, heads, slots, width = q.shape
        groups = masks.groups
        to_slots = _blocks(q, groups) @ _blocks(slot_k, groups).transpose(3, 4)  # (B, H, G, K, K)
        to_slots = to_slots + _relative_term(relative, masks.slot_bucket.flatten(1, 2)).view_as(to_slots)
        to_slots = to_slots.masked_fill(masks.slot_hidden, float("-inf")).view(batch, heads, slots, -1)
        main = masks.slot_main_hidden.size(1)
        if not main:
            return (_blocks(self._weights(to_slots), groups) @ _blocks(slot_v, groups)).reshape(q.shape)
        to_main = q @ main_k.transpose(2, 3) + _relative_term(relative, masks.slot_main_bucket)
        to_main = to_main.masked_fill(masks.slot_main_hidden, float("-inf"))
        of_main, of_slots = self._weights(torch.cat([to_main, to_slots], dim=-1)).tensor_split([main], dim=-1)
        return of_main @ main_v + (_blocks(of_slots, groups) @ _blocks(slot_v, groups)).reshape(q.shape)


def _blocks(x: Tensor, groups: int) -> Tensor:
    """(B, H, G*K, ...) to (B, H, G, K, ...)"""
    return x.unflatten(2, (groups, -1))


def _relative_term(relative: Tensor, bucket: Tensor) -> Tensor:
    """The relative term of each query-key pair.

    Args:
        relative: a term for each bucket, (B, H, Q, R).
        bucket: bucket of each pair, (1|B, Q, J).
    Returns:
        (B, H, Q, J)
    """
    return relative.gather(3, bucket[:, None].expand(relative.shape[:2] + bucket.shape[1:]))
