"""What pretraining hides in a block of text, and what the encoder reads instead.

In every consecutive `mask_block` (64) pieces one span of `mask_length` (9)
pieces is hidden, 15 % in round numbers, and of what is shorter the same share.
Below, with chunks of 8 and spans of 3:

    block      a b c d e f g h | i j k l m n o p        1-based: a is 1, p is 16
    hidden         c d e           i j k
    source     a b M M r f g h | M j M l m n o p        M: [MASK], r: a random piece
    target         c d e           i j k                all spans, concatenated
    prev           b c d           h i j                the real piece before each
    positions      3 4 5           9 10 11              distances stay the real ones
    target_idx     0 1 2           0 1 2                index within its own span

Everything here is a function of its arguments and of the random generator it
is given; `block_generator` makes that one out of numbers alone, so that a mask
never depends on a batch, a worker or a rank.

Shapes: `L` pieces in the block, `N` hidden spans, `M` hidden pieces.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...errors import UserError


@dataclass(frozen=True)
class SpanMasking:
    """The recipe: how much is hidden, and what takes its place.

    Args:
        mask: id of [MASK].
        eos: id that stands before a block's first piece.
        pieces: ids that a random piece is drawn from, each as likely (K,).
        mask_block: pieces of a chunk; each chunk has one hidden span.
        mask_length: pieces of a span.
        mask_share: share of the hidden pieces that the encoder reads as [MASK].
        random_share: share that it reads as a random piece; the rest stay.

    Raises:
        ValueError: if a span does not fit its chunk, or the shares are no shares.
    """

    mask: int
    eos: int
    pieces: np.ndarray
    mask_block: int = 64
    mask_length: int = 9
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self):
        if not 1 <= self.mask_length <= self.mask_block:
            raise UserError(
                f"--mask-length {self.mask_length} does not fit --mask-block {self.mask_block}: "
                "choose a length from 1 to --mask-block"
            )
        for option, share in (("mask", self.mask_share), ("random", self.random_share)):
            if not 0 <= share <= 1:
                raise UserError(f"--{option}-share {share} is no share: choose a number from 0 to 1")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise UserError(
                f"--mask-share {self.mask_share} and --random-share {self.random_share} add up to more than 1: lower one of them"
            )
        assert len(self.pieces) > 0, "no piece to draw random pieces from"


class HiddenBlock(NamedTuple):
    """One block as the model sees it; all arrays are int64."""

    source: np.ndarray  # (L,) what the encoder reads
    target: np.ndarray  # (M,) the hidden pieces, span after span
    prev_output_tokens: np.ndarray  # (M,) the real piece before each of them
    positions: np.ndarray  # (M,) 1-based index in the block of each of them
    target_idx: np.ndarray  # (M,) index of each of them within its own span


def block_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one block: they follow from these three alone."""
    return np.random.default_rng((seed, epoch, index))


def choose_spans(length: int, masking: SpanMasking, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where the hidden spans of a block begin and how long they are: one a chunk, each start that fits as likely.

    Of a last chunk of fewer than `mask_block` pieces the same share is hidden, and so of a short document:
    a span of `mask_length / mask_block` of it, by chance rounded up or down, so that on average the share
    is exact. A span of no pieces is left out, but every block teaches at least one piece.

    Args:
        length: pieces of the block, at least 1.

    Returns:
        The 0-based starts (N,), and the pieces of each span (N,).
    """
    chunks = np.arange(0, length, masking.mask_block)
    room = np.minimum(masking.mask_block, length - chunks)
    sizes = np.full(len(chunks), masking.mask_length)
    if room[-1] < masking.mask_block:
        size = int(room[-1] * masking.mask_length / masking.mask_block + rng.random())
        sizes[-1] = size if len(chunks) > 1 else max(size, 1)
    some = sizes > 0
    return chunks[some] + rng.integers(room[some] - sizes[some] + 1), sizes[some]


def corrupt(target: np.ndarray, masking: SpanMasking, rng: np.random.Generator) -> np.ndarray:
    """What the encoder reads where `target` (M,) is hidden: [MASK], a random piece or the piece (M,)."""
    fate = rng.random(len(target))
    drawn = masking.pieces[rng.integers(len(masking.pieces), size=len(target))]
    kept_or_drawn = np.where(fate < masking.mask_share + masking.random_share, drawn, target)
    return np.where(fate < masking.mask_share, masking.mask, kept_or_drawn)


def hide_spans(block: np.ndarray, masking: SpanMasking, rng: np.random.Generator) -> HiddenBlock:
    """Hides spans of `block` (L,), int64, which is left as it is."""
    starts, sizes = choose_spans(len(block), masking, rng)
    target_idx = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    hidden = np.repeat(starts, sizes) + target_idx
    target = block[hidden]
    source = block.copy()
    source[hidden] = corrupt(target, masking, rng)
    return HiddenBlock(
        source=source,
        target=target,
        # block[-1] stands in for the first piece's predecessor until `where` replaces it
        prev_output_tokens=np.where(hidden > 0, block[hidden - 1], masking.eos),
        positions=hidden + 1,
        target_idx=target_idx,
    )
