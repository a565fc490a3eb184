"""How much of the past a prediction may see: the one rule behind every mode (paper, section 3).

Shapes: B batch, T target length, G blocks, K slots of a block, P main tokens, Q queries.

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
    drafting      blocks on the last accepted token and on each draft: slot 0 of a block verifies
    and verifying the draft behind its anchor, its further slots draft on

Blocks never see each other, so the cost of attention is G*K*P (main keys) + G*K*K (slot keys);
for n-stream that is N*T*T + N*N*T, linear in N while N stays below T.

Nothing here needs torch. Layouts give numpy arrays; the questions `sees_main`, `sees_slot`,
`distance` and `bucket` take numpy arrays and torch tensors alike and answer in kind.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from .errors import UserError

BLOCK_SIZE = 4  # default of --block-size, K of semi-NAR


class Layout(NamedTuple):
    """Which targets the slots of a teacher-forced pass predict and what they hang on.

    A handful of numbers, so that what is made of a layout can be kept by it.

    Attributes:
        groups: number of blocks, G.
        block_size: slots of a block, K.
        first_anchor: last main token that the first block sees, -1: the blocks see none.
        stride: main tokens from one anchor to the next.
        main_length: number of main tokens that must run, P. 0: the mode runs no main stream.
    """

    groups: int
    block_size: int
    first_anchor: int
    stride: int
    main_length: int

    @property
    def anchor(self) -> np.ndarray:
        """Last main token that each block sees, -1 for none, (G)."""
        return self.first_anchor + self.stride * np.arange(self.groups)

    @property
    def target(self) -> np.ndarray:
        """Index of the target that each slot predicts, (G, K).

        In the last blocks it may run past the last target; such slots predict nothing.
        """
        return np.maximum(self.anchor, 0)[:, None] + np.arange(self.block_size)

    @property
    def last_target(self) -> int:
        """The highest index in `target`."""
        return max(self.first_anchor + self.stride * (self.groups - 1), 0) + self.block_size - 1


def streams(length: int, ngram: int) -> Layout:
    """n-stream: a block of `ngram` slots at each of `length` main tokens, (T, N)."""
    return Layout(length, ngram, 0, 1, length)


def semi_autoregressive(length: int, block_size: int, start: int = 0) -> Layout:
    """Semi-NAR: blocks of `block_size` side by side from target `start` on, (ceil((T - start) / K), K).

    Raises:
        ValueError: `block_size` is below 1.
    """
    if block_size < 1:
        raise UserError(f"--block-size is {block_size}: a block holds at least 1 token")
    return Layout(-(-(length - start) // block_size), block_size, start, block_size, length)


def autoregressive(length: int) -> Layout:
    """AR is semi-NAR with blocks of one, (T, 1)."""
    return semi_autoregressive(length, 1)


def non_autoregressive(length: int) -> Layout:
    """NAR: `length` slots in one block that sees no main token, (1, T)."""
    return Layout(1, length, -1, 0, 0)


def places(block_sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Blocks laid end to end: the block of each slot, and the slot's index within it, both (slots)."""
    block = np.repeat(np.arange(len(block_sizes)), block_sizes)
    return block, np.concatenate([np.arange(size) for size in block_sizes] or [block])


def sees_main(last, key):
    """A query sees the main tokens up to `last`: its own index for a main token, its anchor for a slot.

    Args:
        last: (..., Q). key: indices of the main tokens, (..., P).
    Returns:
        Bool (..., Q, P).
    """
    return key[..., None, :] <= last[..., :, None]


def sees_slot(block, index, key_block, key_index):
    """A slot sees those of its own block up to itself.

    Args:
        block, index: block of each query and index within it, (..., Q); a main token is in block -1.
        key_block, key_index: the same of the keys, (..., J).
    Returns:
        Bool (..., Q, J).
    """
    return (key_block[..., None, :] == block[..., :, None]) & (key_index[..., None, :] <= index[..., :, None])


def main_position(main):
    """Absolute position of main token `main` where the text runs on without gaps."""
    return main + 1


def slot_position(target):
    """Absolute position of a slot: one after that of its target's main token."""
    return target + 2


def distance(query, key):
    """Absolute positions (..., Q) and (..., J) to the signed distances (..., Q, J)."""
    return query[..., :, None] - key[..., None, :]


@functools.cache
def bucket_table(num_buckets: int = 32, max_distance: int = 128) -> np.ndarray:
    """Relative-position buckets of the distances 0 ... max_distance (T5's, causal half), int64, read-only.

    The first half of the buckets holds one distance each; the rest widens logarithmically up to
    `max_distance`.
    """
    exact = num_buckets // 2
    distance = np.arange(max_distance + 1)
    # float32 on purpose: the edges of the wide buckets follow its rounding
    scale = np.log(distance.clip(1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    wide = exact + (scale * np.float32(num_buckets - exact)).astype(np.int64)
    table = np.where(distance < exact, distance, wide.clip(max=num_buckets - 1))
    table.setflags(write=False)
    return table


def bucket(distance, table):
    """Bucket of a signed distance, one-directional: keys ahead of the query count as distance 0.

    Args:
        distance: query position - key position, integers of any shape.
        table: `bucket_table`, of the same kind of array.
    """
    return table[distance.clip(0, len(table) - 1)]


def pass_visibility(xp, table, cached: int, position, last, key_position, column, block, index):
    """What the queries of a decoding pass see, and the buckets of their distances.

    Keys are the cached columns, those of the pass's own cached queries among them, and then the
    slots that are not cached.

    Args:
        xp: numpy or torch, what the arrays are of.
        table: `bucket_table`.
        cached: the first so many queries are cached, the others are slots.
        position: absolute position of each query, (B, Q). last: the last column it sees, (B, Q).
        key_position: absolute position of each column, (P). column: 0 ... P - 1.
        block, index: of each query, (Q), as `places` gives them for slots; -1 for cached queries.
    Returns:
        Bool and integers, (B, Q, P + Q - cached) each.
    """
    sees = sees_slot(block, index, block[cached:], index[cached:])
    seen = [sees_main(last, column), xp.broadcast_to(sees, (len(last), *sees.shape))]
    apart = [distance(position, key_position), distance(position, position[:, cached:])]
    return xp.concatenate(seen, -1), bucket(xp.concatenate(apart, -1), table)
