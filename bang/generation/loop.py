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
all kept: G = 1, D = K - 1; with a threshold it drafts and verifies too, and the drafts that are sure
are kept at once. NAR has one block too, anchored at nothing; its slots' own keys and
values are cached, slot i at column i, and M = 0.
"""

from typing import List, NamedTuple, Optional, Protocol, Tuple

import numpy as np

from .. import visibility


SOURCE_GAIN = 4.0
"""What a draft's log-probability gains where it follows in the source: a factor of 55."""


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
        sure: `Way.sure`, for drafts that are to be verified.
    """

    tokens: np.ndarray
    first: np.ndarray
    anchor: np.ndarray
    block_sizes: Tuple[int, ...]
    drafts: int
    forced: Optional[np.ndarray] = None
    banned: Optional[Tuple[np.ndarray, np.ndarray, np.ndarray]] = None
    ends: bool = True
    source_gain: Optional[float] = None
    sure: Optional[float] = None

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


def drafting_slots(step: Pass, given, send=lambda x: x):
    """Where the drafts behind the last accepted token are read.

    Args:
        given: tokens of the first slots, (B, G). send: takes an array of the loop's to where `given` is.
    Returns:
        Token before the first draft, (B); the slot of each draft, the target that it predicts and whether
        its block lacks it, so that the block's last slot stands in, (B, D) each.
    """
    block, row = accepted(send(step.drafted()), given), send(np.arange(len(step.tokens)))
    index = send(np.arange(1, 1 + step.drafts))
    sizes = np.array(step.block_sizes)
    starts, last = send(np.cumsum(sizes) - sizes)[block][:, None], send(sizes - 1)[block][:, None]
    missing = index > last
    slot = starts + index - (index - last) * missing
    return given[row, block], slot, send(step.anchor)[row, block][:, None] + index, missing


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


NEVER = float("inf")

NAR_PIECE, NAR_FIRST_PIECE = 33, 16
"""Slots of a NAR canvas that are decoded at once, 32 tokens and an end: later slots wait until some sentence needs them,
which few need behind the first piece."""


class Text(NamedTuple):
    """What was decoded of a sentence: arrays of one length.

    Attributes:
        tokens: ids, the last one eos, int64.
        scores: log-probabilities, float32.
        passes: number of the pass that gave each token, from 0, int64.
    """

    tokens: np.ndarray
    scores: np.ndarray
    passes: np.ndarray


class Decoding:
    """Decodes one batch.

    Args:
        session: holds the batch.
        way: how.
        least, limit: tokens before which a text must not end, and after which it must, (B).
        pad, eos: ids.
        prefix: tokens that the texts begin with, padded on the right, (B, any); None: free.
        no_repeat_ngram: no n-gram of so many tokens comes twice; 0: it may.
    """

    def __init__(
        self,
        session: Session,
        way: Way,
        least: np.ndarray,
        limit: np.ndarray,
        pad: int,
        eos: int,
        prefix: Optional[np.ndarray] = None,
        no_repeat_ngram: int = 0,
    ):
        assert way.anchored or prefix is None, "NAR has no main stream for a prefix"
        assert way.sure is None or not way.drafts or not no_repeat_ngram, "tokens kept unverified may repeat n-grams"
        rows = len(limit)
        self.session, self.way = session, way
        self.pad, self.eos, self.no_repeat_ngram = pad, eos, no_repeat_ngram
        self.row = np.arange(rows)  # of the batch
        self.least, self.limit = np.minimum(least, limit), limit
        self.prefix = np.full((rows, 0), pad) if prefix is None else prefix
        width = int(limit.max()) + self.prefix.shape[1] + 2 * min(way.drafts, int(limit.max())) + 4
        # column j: main token j. Kept ones, then the drafts to be verified, then pads
        self.text = np.full((rows, width), pad)
        self.text[:, 0] = eos
        self.score = np.zeros((rows, width), dtype=np.float32)
        self.when = np.zeros((rows, width), dtype=np.int64)
        self.length = np.ones(rows, dtype=np.int64)  # kept, the start symbol included
        self.fed = np.zeros(rows, dtype=np.int64)  # columns whose keys and values are in place
        self.drafted = np.zeros(rows, dtype=np.int64)
        self.passes = 0
        self._draft_prefix()

    def run(self) -> List[Text]:
        """The texts, in the order of the batch."""
        texts: List[Optional[Text]] = [None] * len(self.row)
        while len(self.row):
            step = self._next_pass()
            tokens, scores = self.session.run(step)
            ended = self._commit(step, tokens, scores)
            self.passes += 1
            if ended.any():
                for row in ended.nonzero()[0]:
                    kept = slice(1, self.length[row])
                    texts[self.row[row]] = Text(*(x[row, kept].copy() for x in (self.text, self.score, self.when)))
                self._keep((~ended).nonzero()[0])
        return texts

    def _draft_prefix(self) -> None:
        """A prefix is drafted and its tokens forced, so that they are scored."""
        width = self.prefix.shape[1]
        free = (self.prefix == self.pad) | (np.arange(width) >= self.limit[:, None])
        self.forced = np.where(free, -1, self.prefix)
        self.drafted = (~free).sum(1)
        self.text[:, 1 : 1 + width] = np.where(free, self.pad, self.prefix)

    def _next_pass(self) -> Pass:
        last = self.length - 1  # the last token that is kept; its slot 0 predicts target `last`
        drafts = min(self.way.drafts, int((self.limit - last).max()))
        if not self.way.anchored:
            if not self.passes:
                drafts = min(drafts, max(NAR_FIRST_PIECE - 1, int(self.least.max())))
            nothing = np.full((len(last), 1), -1)
            ends = self._ends(last, last + drafts)
            return Pass(self.text[:, :0], last, nothing, (1 + drafts,), drafts, ends=ends)
        blocks = 1 + int(self.drafted.max())
        main = int((last - self.fed).max()) + blocks
        tokens = np.take_along_axis(self.text, self.fed[:, None] + np.arange(main), axis=1)
        anchor = last[:, None] + np.arange(blocks)
        given, forced = 0, None
        if not self.passes and blocks > 1:  # nothing is drafted inside what all rows are given
            given = int(self.drafted.min())
            forced = np.full((len(last), blocks), -1)
            forced[:, :-1] = self.forced[:, : blocks - 1]
        sizes = (1,) * given + self.way.block_sizes(drafts, blocks - given)
        banned = self._repeats(blocks) if self.no_repeat_ngram else None
        gain = self.way.source_gain if self.way.verify else None
        ends = self._ends(last, last + blocks - 1 + drafts)
        return Pass(tokens, self.fed, anchor, sizes, drafts, forced, banned, ends, gain, self.way.sure)

    def _ends(self, first_target: np.ndarray, last_target: np.ndarray) -> bool:
        return bool((first_target < self.least).any() or (last_target >= self.limit).any())

    def _repeats(self, blocks: int):
        """Tokens that would complete an n-gram that the text, drafts and all, holds already."""
        size, found = self.no_repeat_ngram, [[], [], []]
        for row, (text, length, drafted) in enumerate(zip(self.text, self.length, self.drafted)):
            for block in range(min(blocks, 1 + drafted)):
                so_far = text[: length + block]
                if len(so_far) < size:
                    continue
                ngrams = np.lib.stride_tricks.sliding_window_view(so_far, size)
                repeats = (ngrams[:, :-1] == so_far[len(so_far) + 1 - size :]).all(1)
                if size == 1:
                    repeats[0] = False  # the start symbol is eos, which must stay possible
                tokens = ngrams[repeats, -1].tolist()
                found = [old + new for old, new in zip(found, ([row] * len(tokens), [block] * len(tokens), tokens))]
        return tuple(np.array(x, dtype=np.int64) for x in found)

    def _commit(self, step: Pass, tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Keeps what is to be kept of a pass's tokens, and drafts the rest; says which rows have ended."""
        read = np.arange(tokens.shape[1])
        agreed = np.zeros_like(self.length)  # drafts of the last pass that are kept
        if step.blocks > 1:
            # first slots up to the one behind the last accepted draft, then the drafts that follow it
            agreed = accepted(step.drafted(), tokens[:, : step.blocks])
            skip = np.where(read > agreed[:, None], step.blocks - 1 - agreed[:, None], 0)
            beyond = read + skip >= len(read)
            order = np.where(beyond, 0, read + skip)
            tokens = np.where(beyond, self.pad, np.take_along_axis(tokens, order, axis=1))
            scores = np.where(beyond, -np.inf, np.take_along_axis(scores, order, axis=1))
        sure = read <= agreed[:, None]
        if self.way.sure is not None:
            sure |= (tokens != self.pad) & (scores >= self.way.sure)
        kept = sure.cumprod(1).sum(1)
        ends = self._is_end(tokens) & (read < kept[:, None])
        ended = ends.any(1)
        kept = np.where(ended, ends.argmax(1) + 1, kept)
        self.drafted = np.zeros_like(kept)
        if self.way.verify:
            useful = (read < kept[:, None]) | (tokens != self.pad) & (tokens != self.eos)
            self.drafted = np.where(ended, 0, useful.cumprod(1).sum(1) - kept)
        columns = self.length[:, None] + read
        np.put_along_axis(self.text, columns, np.where(read < (kept + self.drafted)[:, None], tokens, self.pad), axis=1)
        np.put_along_axis(self.score, columns, scores.astype(np.float32), axis=1)
        np.put_along_axis(self.when, columns, np.full_like(columns, self.passes), axis=1)
        self.fed = self.length + agreed
        self.length = self.length + kept
        return ended

    def _is_end(self, tokens: np.ndarray) -> np.ndarray:
        """Where a text may end, as tokens are: at eos; in NAR at an eos behind another token, or at the limit."""
        ends = tokens == self.eos
        if self.way.anchored:
            return ends
        started = (self.text[:, 1 : int(self.length[0])] != self.eos).any(1)
        started = started[:, None] | ((~ends).cumsum(1) > 0)
        return ends & started | (self.length[:, None] - 1 + np.arange(tokens.shape[1]) >= self.limit[:, None])

    def _keep(self, rows: np.ndarray) -> None:
        """Goes on with these rows alone."""
        for name in ("row", "least", "limit", "text", "score", "when", "length", "fed", "drafted"):
            setattr(self, name, getattr(self, name)[rows])
        if len(rows):
            self.session.keep(rows)
