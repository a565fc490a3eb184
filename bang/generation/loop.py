"""One loop for every way of decoding but beam search: which slots to run, what to keep of them.

Shapes: B rows (sentences still being decoded), M new main tokens of a pass, G blocks of slots, S
slots in all, N = M + S queries, D drafts read, R = G + D tokens read.

The loop holds texts, lengths and drafts on the host, in numpy. A *session* (of torch, of
onnxruntime) holds the encoded sources and the keys and values of one batch; it runs a `Pass` and
answers with one token and one log-probability for each slot that is read: one transfer to the
host a pass. What may be chosen, and how, is `choice.Chooser`'s; what sees what, `visibility`'s.

Main token j of a row (0: the start symbol, j: its j-th token) always stands at column j of the
row's keys and values. Rows accept different numbers of drafts, so columns are per row: a pass
writes columns first[b] ... first[b] + M - 1 of row b, whatever stood there before, and no query
sees a column beyond its own anchor. So a rejected draft, or the padding of a row that feeds fewer
tokens than others, is never seen: nothing that comes later looks past the last accepted column,
and that column's successors are written anew before anything sees them. Columns are hidden by
index, never zeroed.

A pass, drafting and verifying with K = 2: y_p was committed, d_1 and d_2 drafted after it::

    main tokens      y_p          d_1         d_2        columns first ... first + 2
    anchors           |            |           |         (B, G)
    slot 0 of each   v_0          v_1         v_2        verifies the next draft: v_0 = d_1? v_1 = d_2?
    slots 1 ... D    e_1 e_2      e_1 e_2     e_1 e_2    drafts, read from the block behind the last
                                                         accepted token alone

Read are v_0 ... v_G-1 and then e_1 ... e_D: R = G + D. Semi-NAR has one block, whose slots are
all kept: G = 1, D = K - 1. NAR has one block too, anchored at nothing; its slots' own keys and
values are cached, slot i at column i, and M = 0.
"""

from typing import NamedTuple, Optional, Protocol, Tuple

import numpy as np

from .. import visibility


class Pass(NamedTuple):
    """What one pass of the network runs. Arrays are int64, on the host.

    Attributes:
        tokens: new main tokens of each row, (B, M). Past a row's own number they are pads. NAR: (B, 0).
        first: column of the row's first new main token; of its first new slot in NAR, (B).
        anchor: last main token that each block sees, (B, G); -1 in NAR. The token that stands there
            is in `tokens`; from the second block on it is the draft that the block before verifies.
        block_sizes: slots of each block, the same for all rows, each at least 1, (G).
        drafts: slots read beyond the first of a block, D. A block with fewer slots gives pads.
        forced: token that the first slot of a block must give, -1: free, (B, G); None: all free.
        banned: tokens that the first slot of a block must not give: rows, blocks and tokens, three
            arrays of one length; None: none.
        ends: whether a row may be below its least length or at its limit at a slot that is read; False
            saves the backend the check.
    """

    tokens: np.ndarray
    first: np.ndarray
    anchor: np.ndarray
    block_sizes: Tuple[int, ...]
    drafts: int
    forced: Optional[np.ndarray] = None
    banned: Optional[Tuple[np.ndarray, np.ndarray, np.ndarray]] = None
    ends: bool = True

    @property
    def cached(self) -> int:
        """How many queries, the first ones, put their keys and values into the cache: M, or NAR's slots."""
        return self.tokens.shape[1] or self.block_sizes[0]

    def queries(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The queries: new main tokens, then the slots block by block (`visibility.places`).

        Returns:
            token: its id, -1 for a mask slot. position: absolute. last: last column that it sees.
            All (B, N). The key at column j stands at `visibility.main_position(j)`, in NAR at
            `visibility.slot_position(j)`; a slot's own key, which is not cached, at its position.
        """
        rows, main = self.tokens.shape
        block, index = visibility.places(self.block_sizes)
        slots = np.full((rows, len(index)), -1)
        if not main:
            last = self.first[:, None] + index
            return slots, visibility.slot_position(last), last
        column = self.first[:, None] + np.arange(main)
        anchor = self.anchor[:, block]
        return (
            np.concatenate([self.tokens, slots], axis=1),
            np.concatenate([visibility.main_position(column), visibility.slot_position(anchor + index)], axis=1),
            np.concatenate([column, anchor], axis=1),
        )

    def drafted(self) -> np.ndarray:
        """The draft that each block but the last verifies with its first slot, (B, G - 1)."""
        return np.take_along_axis(self.tokens, self.anchor[:, 1:] - self.first[:, None], axis=1)


def accepted(drafted, given):
    """How many of the drafts are accepted: those before the first that the model would not have given.

    Numpy arrays and torch tensors alike: the session needs it to know which block's drafts to read.

    Args:
        drafted: `Pass.drafted`, (B, G - 1). given: tokens of the first slots, (B, G).
    Returns:
        (B), from 0 to G - 1: the index of the block behind the last accepted token.
    """
    return (drafted == given[:, :-1]).cumprod(1).sum(1)


class Session(Protocol):
    """A batch being decoded: encoded sources, keys and values, and a `choice.Chooser`."""

    def run(self, step: Pass) -> Tuple[np.ndarray, np.ndarray]:
        """Runs a pass.

        Reads the first slot of each block, finds the last accepted draft (`accepted`) and reads slots
        1 ... D of the block behind it; only what is read need go through the output layer. The
        chooser's rules (forced, banned, least length and limit) hold at the first slots and, where
        G is 1, at all slots; drafts to be verified need none of them.

        Returns:
            Tokens, int64, pads where a block has no such slot, and their log-probabilities, float32,
            both (B, G + D).
        """

    def keep(self, rows: np.ndarray) -> None:
        """Goes on with these rows alone, (B'), in this order: the others have ended."""
