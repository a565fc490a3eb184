"""One loop for every decoding strategy but beam search: which slots to run, what to keep of them.

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

Where tokens are kept unverified a *link* may choose them: the session answers with the likeliest tokens of each slot,
and what is kept is the best path through them (`search`). In semi-NAR a path begins behind the last kept token, and may
look at slots behind its block. In NAR one path runs through all pieces of the canvas, and is settled where it ends.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..modes import NAR_FIRST_PIECE, Strategy
from .candidates import Slots
from .linked import Linked
from .ngrams import completing_tokens
from .passes import Pass, count_accepted_drafts
from .search import Paths, PathSearch
from .session import BaseSession


class Text(NamedTuple):
    """What was decoded of a sentence: arrays of one length.

    Attributes:
        tokens: ids, the last one eos, int64.
        scores: log-probabilities, float32.
        passes: number of the pass that gave each token, from 1, int64.
        path_score: of the text as a path (`search`); None: no link chose it.
    """

    tokens: np.ndarray
    scores: np.ndarray
    passes: np.ndarray
    path_score: float | None = None


class Decoding:
    """Decodes one batch.

    Args:
        session: holds the batch.
        strategy: how many tokens a pass gives, and which are kept.
        least, limit: tokens before which a text must not end, and after which it must, (B).
        pad, eos: ids.
        prefix: tokens that the texts begin with, padded on the right, (B, any); None: free.
        no_repeat_ngram: no n-gram of so many tokens comes twice; 0: it may.
        linked: chooses the tokens by paths; None: each slot gives its own. Not where drafts are verified.
    """

    def __init__(
        self,
        session: BaseSession,
        strategy: Strategy,
        least: np.ndarray,
        limit: np.ndarray,
        pad: int,
        eos: int,
        prefix: np.ndarray | None = None,
        no_repeat_ngram: int = 0,
        linked: Linked | None = None,
    ):
        assert strategy.anchored or prefix is None, "NAR has no main stream for a prefix"
        assert strategy.sure is None or not strategy.drafts or not no_repeat_ngram, "tokens kept unverified may repeat n-grams"
        assert linked is None or not strategy.verify, "a path's tokens are kept as they are"
        assert linked is None or linked.count == 1 or not strategy.anchored, "of several paths one canvas is asked"
        rows = len(limit)
        self.linked = linked
        self.search: PathSearch | None = None
        self.paths: Paths | None = None  # of the last pass
        self.start = np.ones(rows, dtype=np.int64)  # the column of the search's first slot
        self.session, self.strategy = session, strategy
        self.pad, self.eos, self.no_repeat_ngram = pad, eos, no_repeat_ngram
        self.row = np.arange(rows)  # of the batch
        self.least, self.limit = np.minimum(least, limit), limit
        self.prefix = np.full((rows, 0), pad) if prefix is None else prefix
        width = int(limit.max()) + self.prefix.shape[1] + 2 * min(strategy.drafts, int(limit.max())) + 4
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

    def run(self) -> list[Text]:
        """The texts, in the order of the batch."""
        return [best for best, *_ in self.candidates()]

    def candidates(self) -> list[list[Text]]:
        """The best texts of each row, best first: as many as the link is asked for, or fewer; without one, one."""
        texts: dict[int, list[Text]] = {}
        while len(self.row):
            texts.update(self.advance())
        found = [texts[row] for row in sorted(texts)]
        return found if self.linked is None else self._with_path_scores(found, self.linked)

    def advance(self) -> dict[int, list[Text]]:
        """Runs one pass. Returns the texts that it ended, best first, by row of the batch."""
        step = self._next_pass()
        self.passes += 1
        if self.linked is not None and step.blocks == 1:
            ended = self._commit_paths(self.session.likeliest(step, self.linked.candidates), self.linked)
        else:
            ended = self._commit(step, *self.session.run(step))
        texts = {int(self.row[row]): [self.kept(int(row)), *self._others(int(row))] for row in ended.nonzero()[0]}
        if texts:
            self._keep((~ended).nonzero()[0])
        return texts

    def kept(self, row: int) -> Text:
        """What is kept so far of a row that is still decoded. Where a link chooses, a later pass of NAR may change it."""
        kept = slice(1, self.length[row])
        return Text(self.text[row, kept].copy(), self.score[row, kept].copy(), self.when[row, kept].copy())

    def stream(self) -> Iterator[Text]:
        """The text of a batch of one row after each pass; the last one is whole."""
        assert len(self.row) == 1
        while len(self.row):
            ended = list(self.advance().values())
            if ended and self.linked is not None:
                ended = self._with_path_scores(ended, self.linked)
            yield ended[0][0] if ended else self.kept(0)

    def _others(self, row: int) -> Iterator[Text]:
        """The paths of an ended row behind its best one."""
        paths = self.paths
        if paths is None:
            return
        for number in range(1, paths.ended.shape[1]):
            if paths.ended[row, number]:
                kept = slice(paths.length[row, number])
                yield Text(paths.tokens[row, number, kept], paths.log_probs[row, number, kept], self.when[row, 1:][kept])

    def _with_path_scores(self, texts: list[list[Text]], linked: Linked) -> list[list[Text]]:
        flat = [(row, text) for row, of_row in enumerate(texts) for text in of_row]
        rows, all_texts = [row for row, _ in flat], [text for _, text in flat]
        scores = iter(linked.scores([text.tokens for text in all_texts], [text.scores for text in all_texts], rows).tolist())
        return [[text._replace(path_score=next(scores)) for text in of_row] for of_row in texts]

    def _draft_prefix(self) -> None:
        """A prefix is drafted and its tokens forced, so that they are scored."""
        width = self.prefix.shape[1]
        free = (self.prefix == self.pad) | (np.arange(width) >= self.limit[:, None])
        self.forced = np.where(free, -1, self.prefix)
        self.drafted = (~free).sum(1)
        self.text[:, 1 : 1 + width] = np.where(free, self.pad, self.prefix)

    def _next_pass(self) -> Pass:
        last = self.length - 1  # the last token that is kept; its slot 0 predicts target `last`
        drafts = min(self.strategy.drafts_at(self.passes), int((self.limit - last).max()))
        if not self.strategy.anchored:
            if not self.passes:
                drafts = min(drafts, max(NAR_FIRST_PIECE - 1, int(self.least.max())))
            nothing = np.full((len(last), 1), -1)
            ends = self._ends(last, last + drafts)
            return Pass(self.text[:, :0], last, nothing, (1 + drafts,), drafts, ends=ends)
        blocks = 1 + int(self.drafted.max())
        main = int((last - self.fed).max()) + blocks
        tokens = np.take_along_axis(self.text, self.fed[:, None] + np.arange(main), axis=1)
        anchor = last[:, None] + np.arange(blocks)
        forced, sizes = None, None
        if self.linked is not None:  # a prefix is scored; paths begin behind it
            drafts = 0 if blocks > 1 else min(drafts + self.linked.ahead, int((self.limit - last).max()))
        if not self.passes and blocks > 1:  # each row drafts behind what it is given, whatever the others are given
            sizes = tuple(1 + drafts * int(block in self.drafted) for block in range(blocks))
            forced = np.full((len(last), blocks), -1)
            forced[:, :-1] = self.forced[:, : blocks - 1]
        sizes = sizes or self.strategy.block_sizes(drafts, blocks)
        banned = self._repeats(blocks, forced) if self.no_repeat_ngram else None
        gain = self.strategy.source_gain if self.strategy.verify else None
        ends = self._ends(last, last + blocks - 1 + drafts)
        return Pass(tokens, self.fed, anchor, sizes, drafts, forced, banned, ends, gain, self.strategy.sure)

    def _ends(self, first_target: np.ndarray, last_target: np.ndarray) -> bool:
        return bool((first_target < self.least).any() or (last_target >= self.limit).any())

    def _repeats(self, blocks: int, forced: np.ndarray | None):
        """Tokens that would complete an n-gram that the text, drafts and all, holds already; a forced token may."""
        found: list[list[int]] = [[], [], []]
        for row, (text, length, drafted) in enumerate(zip(self.text, self.length, self.drafted)):
            for block in range(min(blocks, 1 + int(drafted))):
                if forced is not None and forced[row, block] >= 0:
                    continue
                tokens = completing_tokens(text[: length + block], self.no_repeat_ngram).tolist()
                found = [old + new for old, new in zip(found, ([row] * len(tokens), [block] * len(tokens), tokens))]
        return tuple(np.array(x, dtype=np.int64) for x in found)

    def _commit(self, step: Pass, tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Keeps what is to be kept of a pass's tokens, and drafts the rest; says which rows have ended."""
        read = np.arange(tokens.shape[1])
        agreed = np.zeros_like(self.length)  # drafts of the last pass that are kept
        if step.blocks > 1:
            # first slots up to the one behind the last accepted draft, then the drafts that follow it
            agreed = count_accepted_drafts(step.drafted(), tokens[:, : step.blocks])
            skip = np.where(read > agreed[:, None], step.blocks - 1 - agreed[:, None], 0)
            beyond = read + skip >= len(read)
            order = np.where(beyond, 0, read + skip)
            tokens = np.where(beyond, self.pad, np.take_along_axis(tokens, order, axis=1))
            scores = np.where(beyond, -np.inf, np.take_along_axis(scores, order, axis=1))
        sure = read <= agreed[:, None]
        if self.strategy.sure is not None:
            sure |= (tokens != self.pad) & (scores >= self.strategy.sure)
        kept = agreed if self.linked is not None else sure.cumprod(1).sum(1)
        ends = self._is_end(tokens) & (read < kept[:, None])
        ended = ends.max(1)
        kept = np.where(ended, ends.argmax(1) + 1, kept)
        self.drafted = np.zeros_like(kept)
        if self.strategy.verify:
            useful = (read < kept[:, None]) | (tokens != self.pad) & (tokens != self.eos)
            self.drafted = np.where(ended, 0, useful.cumprod(1).sum(1) - kept)
        columns = self.length[:, None] + read
        np.put_along_axis(self.text, columns, np.where(read < (kept + self.drafted)[:, None], tokens, self.pad), axis=1)
        np.put_along_axis(self.score, columns, scores.astype(np.float32), axis=1)
        np.put_along_axis(self.when, columns, np.full_like(columns, self.passes), axis=1)
        self.fed = self.length + np.minimum(agreed, kept - 1)  # a pass needs a token to be fed
        self.length = self.length + kept
        return ended

    def _commit_paths(self, slots: Slots, linked: Linked) -> np.ndarray:
        """Keeps the best paths through a pass's candidates; says which rows have ended."""
        if self.search is None or self.strategy.anchored:
            self.start = self.length
            least = self.least if self.strategy.anchored else np.maximum(self.least, 1)
            self.search = linked.search(self.text, self.length, least, self.limit)
        self.search.extend(slots)
        self.paths = paths = self.search.best()
        new = slots.end.shape[1]
        if self.strategy.anchored:  # what a path has behind its block is chosen anew, by slots that see the block
            new = min(new, 1 + self.strategy.drafts)
        width = new + int(self.length[0] - self.start[0])
        tokens, scores = paths.tokens[:, 0, :width], paths.log_probs[:, 0, :width]
        ended = paths.ended[:, 0] & (paths.length[:, 0] <= width)
        columns = self.start[:, None] + np.arange(tokens.shape[1])
        np.put_along_axis(self.text, columns, tokens, axis=1)
        np.put_along_axis(self.score, columns, scores, axis=1)
        np.put_along_axis(self.when, self.length[:, None] + np.arange(new), self.passes, axis=1)
        self.fed, self.drafted = self.length, np.zeros_like(self.length)
        self.length = np.where(ended, self.start + paths.length[:, 0], self.length + new)
        return ended

    def _is_end(self, tokens: np.ndarray) -> np.ndarray:
        """Where a text may end, as tokens are: at eos; in NAR at an eos behind another token, or at the limit."""
        ends = tokens == self.eos
        if self.strategy.anchored:
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
            if self.linked is not None:
                self.linked.keep(rows)
            if self.search is not None:
                self.search.keep(rows)
                self.start = self.start[rows]
