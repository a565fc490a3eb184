"""Multi-stream self-attention of the decoder: one attention for every mode.

Shapes: B batch, H heads, d head width, D = H * d, M new main tokens, P main tokens with those
cached, G blocks, K new slots of a block, J slots of a block with those cached, R buckets.
"""

import functools
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq import utils
from fairseq.incremental_decoding_utils import with_incremental_state
from fairseq.modules import FairseqDropout

from .. import visibility
from ..visibility import Layout


class View(NamedTuple):
    """What every layer's attention needs to know of a layout; made once a pass.

    The bucket tables have a batch dimension of 1 or B in front, `hidden` means must not see.
    """

    main_new: int  # M
    main_hidden: Tensor  # (M, P)
    main_bucket: Tensor  # (1|B, M, P)
    slot_blocks: tuple  # (G, K)
    slot_main_hidden: Tensor  # (G * K, P)
    slot_main_bucket: Tensor  # (1|B, G * K, P)
    slot_hidden: Tensor  # (K, J)
    slot_bucket: Tensor  # (1|B, G, K, J)


@functools.lru_cache(maxsize=1024)
def layout_tensors(layout: Layout, device: torch.device) -> Tuple[Tensor, Tensor]:
    """A layout's targets (G, K) and anchors (G) on a device, kept: no transfer at each update."""
    with torch.inference_mode(False):  # what is kept may meet a backward pass later
        return torch.as_tensor(layout.target, device=device), torch.as_tensor(layout.anchor, device=device)


@functools.lru_cache(maxsize=None)
def bucket_tensor(num_buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """`visibility.bucket_table` on a device."""
    with torch.inference_mode(False):
        return torch.tensor(visibility.bucket_table(num_buckets, max_distance), device=device)


def make_view(
    layout: Layout, positions: Optional[Tensor], past_main: int, past_slots: int, table: Tensor, device: torch.device
) -> View:
    """Turns a layout into masks and buckets.

    Args:
        layout: the blocks; its main_length counts cached main tokens too.
        positions: position of each target's main token, (B, >= last target + 1); None: side by side.
        past_main: main tokens held in the cache.
        past_slots: slots of the (one) block held in the cache; the layout's slots follow them.
        table: bucket of each distance.
    """
    if positions is None:
        return _plain_view(layout, past_main, past_slots, table, device)
    return _view(layout, positions, past_main, past_slots, table)


@functools.lru_cache(maxsize=64)
def _plain_view(layout: Layout, past_main: int, past_slots: int, table: Tensor, device: torch.device) -> View:
    with torch.inference_mode(False):
        last = max(layout.main_length, past_slots + layout.last_target + 1)
        positions = visibility.main_position(torch.arange(last, device=device))[None]
        return _view(layout, positions, past_main, past_slots, table)


def _view(layout: Layout, positions: Tensor, past_main: int, past_slots: int, table: Tensor) -> View:
    device = positions.device
    groups, block, main = layout.groups, layout.block_size, layout.main_length
    target, anchor = layout_tensors(layout, device)
    slot = torch.arange(past_slots + block, device=device)
    main_token = torch.arange(main, device=device)
    main_at = positions[:, :main]
    slot_at = slot_positions(target + past_slots, positions)  # (1|B, G, K)
    key_at = slot_at
    if past_slots:
        key_at = torch.cat([slot_positions(slot[:past_slots], positions)[:, None], slot_at], dim=2)

    def buckets(query: Tensor, key: Tensor) -> Tensor:
        return visibility.bucket(visibility.distance(query, key), table)

    same = torch.zeros_like(slot)  # one block
    sees_slot = visibility.sees_slot(same[past_slots:], slot[past_slots:], same, slot)
    return View(
        main_new=main - past_main,
        main_hidden=~visibility.sees_main(main_token[past_main:], main_token),
        main_bucket=buckets(main_at[:, past_main:], main_at),
        slot_blocks=(groups, block),
        slot_main_hidden=~visibility.sees_main(anchor, main_token).repeat_interleave(block, dim=0),
        slot_main_bucket=buckets(slot_at.flatten(1), main_at),
        slot_hidden=~sees_slot,
        slot_bucket=buckets(slot_at, key_at),
    )


def slot_positions(target: Tensor, positions: Tensor) -> Tensor:
    """Absolute positions of the slots of targets (...): (1|B, ...), one after their main tokens'.

    Args:
        positions: of the targets' main tokens, (1|B, T). Slots past the end get the last one's.
    """
    return positions[:, target.clamp(max=positions.size(1) - 1)] + 1


@with_incremental_state
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
        if embed_dim % num_heads:
            raise ValueError(
                f"--decoder-embed-dim {embed_dim} is not a multiple of --decoder-attention-heads {num_heads}"
            )
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.scaling = (embed_dim // num_heads) ** -0.5
        self.dropout_module = FairseqDropout(dropout, module_name=self.__class__.__name__)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))  # rows: q, k, v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.relative_linear = nn.Linear(embed_dim, num_buckets * num_heads)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self, x: Tensor, view: View, incremental_state: Optional[dict] = None, main_output: bool = True
    ) -> Tensor:
        """
        Args:
            x: main tokens, then the slots block by block, (M + G*K, B, D).
            view: what each of them sees.
            incremental_state: fairseq's; holds keys and values of earlier steps: those of the
                main tokens, or of the slots in a mode without a main stream.
            main_output: False in the last layer, where only keys and values of the main tokens
                are of use.
        Returns:
            (M + G*K, B, D), or (G*K, B, D) without main_output.
        """
        length, batch, dim = x.shape
        main = view.main_new
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        q = self._heads(q * self.scaling)
        relative = self.relative_linear(x).view(length, batch, self.num_buckets, self.num_heads)
        relative = relative.permute(1, 3, 0, 2)  # (B, H, M + G*K, R)
        keys = self._heads(k).split([main, length - main], dim=2)
        values = self._heads(v).split([main, length - main], dim=2)
        (main_k, slot_k), (main_v, slot_v) = keys, values
        if incremental_state is not None:
            if view.slot_main_hidden.size(1):
                main_k, main_v = self._extend(incremental_state, main_k, main_v)
            else:
                slot_k, slot_v = self._extend(incremental_state, slot_k, slot_v)

        out = self._slots(q[:, :, main:], relative[:, :, main:], main_k, main_v, slot_k, slot_v, view)
        if main_output and main:
            out = torch.cat([self._main(q[:, :, :main], relative[:, :, :main], main_k, main_v, view), out], dim=2)
        return self.out_proj(out.permute(2, 0, 1, 3).reshape(out.size(2), batch, dim))

    def _heads(self, x: Tensor) -> Tensor:
        """(L, B, D) to (B, H, L, d)"""
        length, batch, _ = x.shape
        return x.view(length, batch, self.num_heads, -1).permute(1, 2, 0, 3)

    def _extend(self, incremental_state: dict, k: Tensor, v: Tensor):
        """Appends new keys and values to the cached ones, both (B, H, length, d)."""
        past = self.get_incremental_state(incremental_state, "kv")
        if past is not None:
            k, v = torch.cat([past["k"], k], dim=2), torch.cat([past["v"], v], dim=2)
        self.set_incremental_state(incremental_state, "kv", {"k": k, "v": v})
        return k, v

    def cached_length(self, incremental_state: Optional[dict]) -> int:
        """Number of tokens whose keys and values are held."""
        past = self.get_incremental_state(incremental_state, "kv") if incremental_state else None
        return 0 if past is None else past["k"].size(2)

    def reorder_incremental_state(self, incremental_state: dict, new_order: Tensor):
        """Keeps the rows `new_order` of the batch (beams chosen, sentences finished)."""
        past = self.get_incremental_state(incremental_state, "kv")
        if past is not None:
            kept = {name: x.index_select(0, new_order) for name, x in past.items()}
            self.set_incremental_state(incremental_state, "kv", kept)

    def _weights(self, logits: Tensor) -> Tensor:
        return self.dropout_module(utils.softmax(logits, dim=-1).type_as(logits))

    def _main(self, q, relative, k, v, view: View) -> Tensor:
        logits = q @ k.transpose(2, 3) + _relative_term(relative, view.main_bucket)
        return self._weights(logits.masked_fill(view.main_hidden, float("-inf"))) @ v

    def _slots(self, q, relative, main_k, main_v, slot_k, slot_v, view: View) -> Tensor:
        batch, heads, slots, width = q.shape
        groups, block = view.slot_blocks
        to_slots = _blocks(q, groups) @ _blocks(slot_k, groups).transpose(3, 4)  # (B, H, G, K, J)
        to_slots = to_slots + _relative_term(relative, view.slot_bucket.flatten(1, 2)).view_as(to_slots)
        to_slots = to_slots.masked_fill(view.slot_hidden, float("-inf")).view(batch, heads, slots, -1)
        main = view.slot_main_hidden.size(1)
        if not main:
            return (_blocks(self._weights(to_slots), groups) @ _blocks(slot_v, groups)).reshape(q.shape)
        to_main = q @ main_k.transpose(2, 3) + _relative_term(relative, view.slot_main_bucket)
        to_main = to_main.masked_fill(view.slot_main_hidden, float("-inf"))
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
