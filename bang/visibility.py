"""How much of the past a prediction may see: the one rule behind every mode (paper, section 3).

Shapes: B batch, T target length, G blocks, K slots of a block, P main tokens.

The decoder holds two kinds of token. *Main* tokens are the real ones, shifted right, so that
main token 0 is the start symbol and main token j the target before target j. *Slots* are mask
tokens; slot outputs are the predictions. Slots come in blocks, and a block hangs on an *anchor*,
the last main token that it sees::

    main      <s>  a   b   c   d   e
    target     a   b   c   d   e  </s>
               0   1   2   3   4   5

    block anchored at 1, K = 3:
    sees main <s>  a   .   .   .   .      main j       if j <= anchor
    slot 0         [b]                    slots of its own block
    slot 1         [b] [c]                up to its own
    slot 2         [b] [c] [d]

Slot i of a block with anchor a predicts target a + i. The modes differ in the blocks alone:

    AR            K = 1, an anchor at every token
    semi-NAR      blocks of K, anchors 0, K, 2K ...
    NAR           one block of T, anchored at nothing (-1): it sees no main token, not even <s>,
                  and its slot i predicts target i
    n-stream      K = N, an anchor at every token. Column i is the paper's predicting stream i:
                  its slot for target t is slot i of the block anchored at t - i, so it sees the
                  main tokens up to t - i, then stream 0's slot at t - i, stream 1's at
                  t - i + 1, ... and its own. Streams i > t have no slot at target t: their block
                  would hang before <s>, their loss never counts, and nothing that counts sees
                  them.

Blocks never see each other, so the cost of attention is G*K*P (main keys) + G*K*K (slot keys);
for n-stream that is N*T*T + N*N*T, linear in N while N stays below T.
"""

import math
from typing import NamedTuple, Tuple

import torch
from torch import Tensor


BLOCK_SIZE = 4  # default of --block-size, K of semi-NAR


class Layout(NamedTuple):
    """Which targets the slots predict and what they hang on.

    Attributes:
        target: index of the target that each slot predicts, (G, K). In the last blocks it may run
            past the last target; such slots predict nothing.
        anchor: last main token that each block sees, -1 for none, (G).
        main_length: number of main tokens that must run, P. 0: the mode runs no main stream.
    """

    target: Tensor
    anchor: Tensor
    main_length: int

    @property
    def blocks(self) -> Tuple[int, int]:
        """(G, K)"""
        return tuple(self.target.shape)

    def to(self, device) -> "Layout":
        return self._replace(target=self.target.to(device), anchor=self.anchor.to(device))


def streams(length: int, ngram: int) -> Layout:
    """n-stream: a block of `ngram` slots at each of `length` main tokens, (T, N)."""
    anchor = torch.arange(length)
    return Layout(anchor[:, None] + torch.arange(ngram), anchor, length)


def semi_autoregressive(length: int, block_size: int) -> Layout:
    """Semi-NAR: blocks of `block_size` side by side, (ceil(T / K), K).

    Raises:
        ValueError: `block_size` is below 1.
    """
    if block_size < 1:
        raise ValueError(f"--block-size is {block_size}: a block holds at least 1 token")
    anchor = torch.arange(0, length, block_size)
    return Layout(anchor[:, None] + torch.arange(block_size), anchor, length)


def autoregressive(length: int) -> Layout:
    """AR is semi-NAR with blocks of one, (T, 1)."""
    return semi_autoregressive(length, 1)


def non_autoregressive(length: int, start: int = 0) -> Layout:
    """NAR: `length` slots from target `start` on, in one block that sees no main token, (1, T).

    With a cache, `start` slots have been decoded before; the new ones see them too.
    """
    return Layout(torch.arange(start, start + length)[None], torch.tensor([-1]), 0)


def next_block(main_length: int, block_size: int) -> Layout:
    """A decoding step: one block that hangs on the last of `main_length` main tokens, (1, K)."""
    anchor = main_length - 1
    return Layout(torch.arange(anchor, anchor + block_size)[None], torch.tensor([anchor]), main_length)


def main_sees_main(new: int, past: int = 0) -> Tensor:
    """Causal: main token past + i sees the main tokens up to itself. Bool (new, past + new)."""
    return torch.ones(new, past + new, dtype=torch.bool).tril(past)


def slot_sees_main(layout: Layout) -> Tensor:
    """The slots of a block see the main tokens up to its anchor. Bool (G, P)."""
    return torch.arange(layout.main_length, device=layout.anchor.device) <= layout.anchor[:, None]


def slot_sees_slot(block_size: int, past: int = 0) -> Tensor:
    """Within its block a slot sees those up to itself. Bool (K, past + K)."""
    return torch.ones(block_size, past + block_size, dtype=torch.bool).tril(past)


def distance(query: Tensor, key: Tensor) -> Tensor:
    """Absolute positions (..., Q) and (..., J) to the signed distances (..., Q, J)."""
    return query[..., :, None] - key[..., None, :]


def bucket(distance: Tensor, num_buckets: int = 32, max_distance: int = 128) -> Tensor:
    """Relative-position bucket of a signed distance, one-directional (spec of T5, causal half).

    The first half of the buckets holds one distance each; the rest widens logarithmically up to
    `max_distance`. Keys ahead of the query count as distance 0.

    Args:
        distance: query position - key position, any shape, long.
    Returns:
        Bucket indices in [0, num_buckets), same shape, long.
    """
    exact = num_buckets // 2
    distance = distance.clamp(min=0)
    # float32 on purpose: the edges of the wide buckets follow its rounding
    scale = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wide = (exact + (scale * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return torch.where(distance < exact, distance, wide)
