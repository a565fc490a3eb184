"""The ways of decoding: what a pass gives, and what is kept of it."""

from typing import NamedTuple, Optional, Tuple

import numpy as np

NEVER = float("inf")

NAR_PIECE, NAR_FIRST_PIECE = 33, 16
"""Slots of a NAR canvas that are decoded at once, 32 tokens and an end: later slots wait until some sentence needs them,
which few need behind the first piece."""

SOURCE_GAIN = 4.0
"""What a draft's log-probability gains where it follows in the source: a factor of 55."""


class Way(NamedTuple):
    """A way of decoding: how many tokens a pass gives, and which of them are kept.

    Attributes:
        drafts: tokens that a block gives beyond its first, D.
        verify: drafts not kept are fed to the next pass, which keeps those that it would have given.
        threshold: drafts are kept unverified as long as each has at least this probability; NEVER: none.
        anchored: blocks hang on the last token; False: NAR, whose slots see no token.
        source_gain: what drafts that are verified gain where they follow in the source, in log-probability.
    """

    drafts: int
    verify: bool = False
    threshold: float = 0.0
    anchored: bool = True
    source_gain: float = 0.0

    @property
    def sure(self) -> Optional[float]:
        """Log-probability from which on a draft is kept unverified; None: never."""
        return None if self.threshold == NEVER else float(np.log(max(self.threshold, 1e-300)))

    def block_sizes(self, drafts: int, blocks: int) -> Tuple[int, ...]:
        """Slots of the blocks of a pass.

        Where drafts are verified the blocks behind a draft draft half as far, two tokens at least, or one where the
        source may go on: they are reached less often, and slots cost more than the drafts save that are missed.
        """
        behind = drafts
        if self.verify:
            behind = min(drafts, 1) if self.source_gain else max(min(drafts, 2), -(-drafts // 2))
        return (1 + drafts,) + (1 + behind,) * (blocks - 1)


def autoregressive() -> Way:
    """Greedy (or drawn) AR, token by token."""
    return Way(drafts=0)


def semi_autoregressive(block_size: int, threshold: float = 0.0, source_gain: float = SOURCE_GAIN) -> Way:
    """Semi-NAR; with a threshold a block is kept as far as each of its tokens is sure, one at least, and the others are drafts.

    So 0 keeps whole blocks, and 1 what speculative decoding keeps: greedy AR's words.

    Args:
        source_gain: see `speculative`; without a threshold nothing is drafted.

    Raises:
        ValueError: `block_size` is below 1, or `threshold` no probability; see also `speculative`.
    """
    if block_size < 1:
        raise ValueError(f"--block-size {block_size}: a block holds at least 1 token")
    if not 0 <= threshold <= 1:
        raise ValueError(f"--commit-threshold {threshold}: a probability lies between 0 and 1")
    if threshold == 0 or block_size == 1:
        return Way(block_size - 1)
    return speculative(block_size - 1, source_gain)._replace(threshold=threshold if threshold < 1 else NEVER)


def speculative(draft_length: int, source_gain: float = SOURCE_GAIN) -> Way:
    """AR's own words: every draft is verified.

    Args:
        source_gain: what drafts gain where they follow in the source, in log-probability; 0: the slots alone draft.

    Raises:
        ValueError: `draft_length` is below 1, or `source_gain` below 0.
    """
    if draft_length < 1:
        raise ValueError(f"--draft-length {draft_length}: at least 1 token is drafted")
    if not 0 <= source_gain < NEVER:
        raise ValueError(f"--draft-from-source {source_gain}: give a number, 0 or more")
    return Way(draft_length, verify=True, threshold=NEVER, source_gain=source_gain)


def non_autoregressive() -> Way:
    """NAR. The canvas is decoded in pieces, until every text has ended: a slot never sees later ones."""
    return Way(NAR_PIECE - 1, anchored=False)
