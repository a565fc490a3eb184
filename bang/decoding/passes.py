"""A pass of the network, and the session that runs it. Shapes as in `loop`."""

from typing import NamedTuple, Protocol

import numpy as np

from .. import visibility
from .candidates import Slots


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
        source_gain: drafts are to be verified, and gain so much where they follow in the source
            (`choice.Chooser.draft`); None: all may be kept as they are.
        sure: `Strategy.sure`, for drafts that are to be verified.
    """

    tokens: np.ndarray
    first: np.ndarray
    anchor: np.ndarray
    block_sizes: tuple[int, ...]
    drafts: int
    forced: np.ndarray | None = None
    banned: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    ends: bool = True
    source_gain: float | None = None
    sure: float | None = None

    @property
    def main(self) -> int:
        """M; 0: NAR."""
        return self.tokens.shape[1]

    @property
    def blocks(self) -> int:
        """G"""
        return len(self.block_sizes)

    @property
    def cached(self) -> int:
        """How many queries, the first ones, put their keys and values into the cache: M, or NAR's slots."""
        return self.main or self.block_sizes[0]

    def queries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def canvas(rows: int, slots: int) -> Pass:
    """A pass of NAR over the first slots of each row."""
    first = np.zeros(rows, dtype=np.int64)
    return Pass(np.zeros((rows, 0), dtype=np.int64), first, first[:, None] - 1, (slots,), slots - 1)


def count_accepted_drafts(drafted, given):
    """How many of the drafts are accepted: those before the first that the model would not have given.

    Numpy arrays and torch tensors alike: the session needs it to know which block's drafts to read.

    Args:
        drafted: `Pass.drafted`, (B, G - 1). given: tokens of the first slots, (B, G).
    Returns:
        (B), from 0 to G - 1: the index of the block behind the last accepted token.
    """
    return (drafted == given[:, :-1]).cumprod(1).sum(1)


def drafting_slots(step: Pass, given, send=lambda x: x):
    """Where the drafts behind the last accepted token are read.

    Args:
        given: tokens of the first slots, (B, G). send: takes an array of the loop's to where `given` is.
    Returns:
        Token before the first draft, (B); the slot of each draft, the target that it predicts and whether
        its block lacks it, so that the block's last slot stands in, (B, D) each.
    """
    block, row = count_accepted_drafts(send(step.drafted()), given), send(np.arange(len(step.tokens)))
    index = send(np.arange(1, 1 + step.drafts))
    sizes = np.array(step.block_sizes)
    starts, last = send(np.cumsum(sizes) - sizes)[block][:, None], send(sizes - 1)[block][:, None]
    missing = index > last
    slot = starts + index - (index - last) * missing
    return given[row, block], slot, send(step.anchor)[row, block][:, None] + index, missing


class Session(Protocol):
    """A batch being decoded: encoded sources, keys and values, and a `choice.Chooser`."""

    def run(self, step: Pass) -> tuple[np.ndarray, np.ndarray]:
        """Runs a pass.

        Reads the first slot of each block, finds the last accepted draft (`count_accepted_drafts`) and reads slots
        1 ... D of the block behind it; only what is read need go through the output layer. The
        chooser's rules (forced, banned, least length and limit) hold at the first slots and, where
        G is 1, at all slots; drafts to be verified need none of them.

        Returns:
            Tokens, int64, pads where a block has no such slot, and their log-probabilities, float32,
            both (B, G + D).
        """

    def likeliest(self, step: Pass, count: int) -> Slots:
        """Runs a pass of one block.

        Returns:
            The `count` likeliest tokens of each slot but pad and eos, on the host; no rule is applied.
        """

    def keep(self, rows: np.ndarray) -> None:
        """Goes on with these rows alone, (B'), in this order: the others have ended."""
