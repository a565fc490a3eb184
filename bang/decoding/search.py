"""The search: the best path through the likeliest tokens of the slots of a pass.

A path takes one candidate of each slot, until it ends. Its score is a sum over its tokens::

    log p_slot(y)  +  weight * log(p(y | h) / p(y))  +  gain, if the source has the pair (y before, y)  +  bonus

and at its end log p_slot(eos) + end * weight * log(p(eos | h) / p(eos)) - eos_penalty; h is what stands before y (`link`).

Rules. No token twice in a row, unless the source or the n-grams have it (`c++`, `::`). No pair of tokens twice in a
text. No banned token. A path breaks these only where it has no other way on, and loses 10,000 each time. No text
ends before its least length, each does at its limit, and a forced token is taken: these hold always.

A text ends at the first slot behind which no open path scores higher than its best ended one. So a text does not
depend on how many slots a pass had, nor on how a canvas was cut into pieces. Where several paths are asked for, they are
the best of those that have ended by then, so one pass gives them all.

States. Kept are, for each candidate of the last slot, the `width` best paths that end in it. Paths of equal last
order - 1 tokens have the same future, so the best of them is enough (the `count` best, where so many paths are asked
for). With order 2 the search is exact (Viterbi), with order 3 and a `width` below the number of candidates a beam.
'No pair twice' looks at a path's whole past, of which a state knows nothing: it is applied to the paths that are
kept. Where the best of all paths keeps the rule by itself, an exact search still finds it.

Ties. Candidates are ranked by log-probability, then by id. Of equal scores the shorter text wins, then, from its last
token backwards, the one with the candidate of better rank (order 3: before that the one whose score without the last
token is higher); an ended path wins over an open one.

Shapes: B rows (texts), n slots of a pass, K candidates of a slot, W paths kept for each, T tokens of a path so far,
P tokens of the whole text so far, N paths asked for, S source length, V vocabulary.
"""

from typing import NamedTuple

import numpy as np

from .candidates import Slots
from .link import UNIT, Link, Weights
from .source_pairs import SourcePairs

_REFUSED = -1e4
_NONE = -np.inf


class Rules(NamedTuple):
    """What texts must keep to.

    Attributes:
        least, limit: tokens before which a text must not end, and after which it must, (B). A text of NAR has at
            least 1.
        eos_penalty, unk_penalty: taken off the log-probabilities of eos and unk.
        pad, eos, unk: ids.
    """

    least: np.ndarray
    limit: np.ndarray
    pad: int
    eos: int
    unk: int
    eos_penalty: float = 0.0
    unk_penalty: float = 0.0


class Paths(NamedTuple):
    """The best paths of each row, best first.

    Attributes:
        tokens: what was chosen in the slots, the eos of an ended path included, then pads, int64, (B, N, T + 1).
        log_probs: the network's own, of these, float32, (B, N, T + 1).
        length: tokens of each, eos included, (B, N).
        ended: whether the path ends, or runs on behind the last slot, (B, N).
        score: of the path (see the module); -inf: there are not so many paths, (B, N).
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    length: np.ndarray
    ended: np.ndarray
    score: np.ndarray


class PathSearch:
    """Finds the best paths of a batch, slots by slots: `extend` as often as there are slots, then `best`.

    Args:
        link: n-grams.
        pairs: of the sources.
        text: what is kept of each text so far, padded on the right, (B, any); in front stands eos, the start.
        length: tokens of each, the start included, at least 1, (B).
        rules: lengths and penalties; least and limit count the whole text, without start and end.
        count: paths that `best` may be asked for, N.
        weights: None: the link's own.
    """

    def __init__(
        self,
        link: Link,
        pairs: SourcePairs,
        text: np.ndarray,
        length: np.ndarray,
        rules: Rules,
        count: int = 1,
        weights: Weights | None = None,
    ):
        self._link, self._rules, self._count = link, rules, count
        self._weights = weights or link.weights
        self._width = count if link.order == 2 else max(self._weights.width, count)
        self._rows = np.arange(len(length))
        self._kept = length - 1  # tokens of the text before the first slot
        self._limit = rules.limit
        self._least = np.minimum(rules.least, rules.limit)
        self._slots = 0
        self._source_pairs = pairs
        self._open = np.ones(len(length), dtype=bool)

        # the state: one candidate, the last token of the text, and one path of it
        rows = len(length)
        self._token = np.take_along_axis(text, length[:, None] - 1, axis=1)  # (B, K)
        self._score = np.zeros((rows, 1, 1))  # (B, K, W)
        column = np.arange(text.shape[1]) - text.shape[1] + length[:, None]
        written = np.where(column < 0, -1, np.take_along_axis(text, np.maximum(column, 0), axis=1))
        self._text = written.astype(np.int32)[:, None, None]  # with the path, flush right, (B, K, W, P)
        self._bigram = np.full((rows, 1, 1), -1)  # index of the bigram that the path ends in, (B, K, W)
        if link.order == 3 and text.shape[1] > 1:
            before = np.take_along_axis(text, np.maximum(length - 2, 0)[:, None], axis=1)
            _, index = link.bigrams(before, self._token)
            self._bigram[:, :, 0] = np.where(length[:, None] > 1, index, -1)

        self._ended_score = np.full((rows, count), _NONE)
        self._ended_text = np.zeros((rows, count, 0), dtype=np.int32)
        self._ended_length = np.zeros((rows, count), dtype=np.int64)  # without eos
        self._seen: list[Slots] = []  # in order of rank

    @property
    def finished(self) -> np.ndarray:
        """Rows whose best paths have ended, (B): more slots change nothing."""
        return ~self._open

    def extend(self, slots: Slots, forced: np.ndarray | None = None, banned: tuple | None = None) -> None:
        """Goes through the next slots.

        Args:
            slots: what a pass says of them; K as in earlier calls.
            forced: token that a slot must give, which is then among its candidates, or eos; -1 where it is free, (B, n).
            banned: rows, slots and tokens that must not come together, three arrays of one length.
        """
        slots = _ranked(slots, self._rules)
        if forced is not None:
            there = (slots.tokens == forced[..., None]).any(2) | (forced < 0) | (forced == self._rules.eos)
            assert there.all(), "a forced token is among its slot's candidates"
        self._seen.append(slots)
        step = self._transitions(slots, forced, banned)
        for slot in range(slots.tokens.shape[1]):
            if not self._open.any():
                break
            self._step(slots, step, slot)

    def keep(self, rows: np.ndarray) -> None:
        """Goes on with these rows alone, (B'), in this order."""
        for name in _OF_ROWS:
            setattr(self, name, getattr(self, name)[rows])
        self._rows, self._source_pairs = np.arange(len(rows)), self._source_pairs.of(rows)
        self._seen = [Slots(*(x[rows] for x in slots)) for slots in self._seen]

    def best(self) -> Paths:
        """The best paths, ended ones and those that run on behind the last slot, best first."""
        score, text, length, runs_on = self._with(np.where(self._open[:, None, None], self._score, _NONE))
        return self._paths(text, length, ~runs_on, score)

    def _with(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The best `count` of the ended paths and of the open ones.

        Args:
            score: of the open ones, (B, K, W).
        Returns:
            Score, tokens, length, and whether it is an open one, best first; of equal ones the ended are first.
        """
        row, score = self._rows[:, None], score.reshape(len(self._rows), -1)
        chosen = _best(score, self._count)
        text = self._text.reshape(*score.shape, -1)[row, chosen][..., self._text.shape[3] - self._slots :]
        score = np.concatenate([self._ended_score, score[row, chosen]], axis=1)
        order = _best(score, self._count)
        text = np.concatenate([_wide(self._ended_text, self._slots), text], axis=1)[row, order]
        length = np.concatenate([self._ended_length, np.full(chosen.shape, self._slots)], axis=1)[row, order]
        return score[row, order], text, length, order >= self._count

    def _paths(self, text: np.ndarray, length: np.ndarray, ended: np.ndarray, score: np.ndarray) -> Paths:
        """Tokens and log-probabilities of paths, (B, N, T)."""
        rows, count, width = text.shape
        tokens = np.full((rows, count, width + 1), self._rules.pad)
        log_probs = np.zeros((rows, count, width + 1), dtype=np.float32)
        if self._seen:
            all_tokens, all_log_probs, end = (np.concatenate(x, axis=1) for x in zip(*self._seen))
            rank = (all_tokens[:, None, :width] == text[..., None]).argmax(3)
            tokens[:, :, :width] = text
            log_probs[:, :, :width] = all_log_probs[self._rows[:, None, None], np.arange(width), rank]
            beyond = np.arange(width + 1) >= length[:, :, None]
            tokens[beyond], log_probs[beyond] = self._rules.pad, 0
            row, path = ended.nonzero()
            at = length[row, path]
            tokens[row, path, at] = self._rules.eos
            log_probs[row, path, at] = end[row, at]
        none = np.isneginf(score)
        tokens[none], log_probs[none] = self._rules.pad, 0
        return Paths(tokens, log_probs, np.where(none, 0, length + ended), ended & ~none, score)

    def _transitions(self, slots: Slots, forced: np.ndarray | None, banned: tuple | None) -> "_Transitions":
        """What does not depend on a path's past but for its last token, of all slots at once."""
        link, weights, rules = self._link, self._weights, self._rules
        rows, count, candidates = slots.tokens.shape
        first = np.repeat(self._token[:, None, :1], candidates, axis=2)
        first[:, 0, : self._token.shape[1]] = self._token
        before = np.concatenate([first, slots.tokens[:, :-1]], axis=1)[..., None]  # (B, n, K, 1)
        follows = np.concatenate([slots.tokens, np.full((rows, count, 1), rules.eos)], axis=2)
        after = follows[:, :, None]  # (B, n, 1, K + 1)

        scale = np.full(candidates + 1, weights.weight / UNIT)
        scale[-1] *= weights.end
        own = slots.log_probs.astype(np.float64)
        own[slots.tokens == rules.unk] -= rules.unk_penalty
        own += weights.bonus
        if banned is not None:
            row, slot, token = banned
            hit, rank = (slots.tokens[row, slot] == token[:, None]).nonzero()
            own[row[hit], slot[hit], rank] += _REFUSED
        end = slots.end.astype(np.float64) - rules.eos_penalty
        if forced is not None:
            own[(forced >= 0)[..., None] & (slots.tokens != forced[..., None])] = _NONE
        own = np.concatenate([own, end[..., None]], axis=2)[:, :, None]

        ratio, bigram = link.bigrams(before, after)
        in_source = self._source_pairs.have(before * link.size + after)
        score = own + weights.gain * in_source
        if link.order == 2:
            score += ratio * scale
        again = (before == after) & ~in_source & (bigram < 0)
        score[..., :-1] += _REFUSED * again[..., :-1]  # eos behind the eos that a text begins with is its end
        kept = self._kept[:, None] + self._slots + np.arange(count)
        may_end, must_end = kept >= self._least[:, None], kept >= self._limit[:, None]
        if forced is not None:
            may_end, must_end = may_end & (forced < 0) | (forced == rules.eos), must_end & (forced < 0)
        return _Transitions(score, ratio, bigram, follows, scale, may_end, must_end)

    def _step(self, slots: Slots, step: "_Transitions", slot: int) -> None:
        """Goes through one slot."""
        before = self._score.shape[1]  # K, or 1 in front of the first slot
        score, ratio, bigram = (x[:, slot, :before] for x in (step.score, step.ratio, step.bigram))
        total = self._score[..., None] + score[:, :, None]  # (B, K, W, K + 1)
        if self._link.order == 3:
            total += self._link.trigrams(self._bigram, step.token[:, slot], ratio) * step.scale
        end, total = total[..., -1], total[..., :-1]
        # a pair comes again where the path's last token stands in it, and what followed it there is a candidate
        *path, column = (self._text[..., :-1] == self._text[..., -1:]).nonzero()
        if len(column):
            again = np.zeros(total.shape, dtype=bool)
            followed = self._text[..., 1:][*path, column]
            np.logical_or.at(again, tuple(path), followed[:, None] == slots.tokens[path[0], slot])
            total += _REFUSED * again

        total[step.must_end[:, slot]] = _NONE
        end[~(self._open & step.may_end[:, slot])] = _NONE
        if (end.max((1, 2)) > self._ended_score[:, -1]).any():
            self._ended_score, self._ended_text, self._ended_length, _ = self._with(end)
        self._go_on(total, bigram, slots.tokens[:, slot])
        self._token = slots.tokens[:, slot]
        self._slots += 1
        self._open &= self._score.max((1, 2)) > self._ended_score[:, 0]

    def _go_on(self, total: np.ndarray, bigram: np.ndarray, token: np.ndarray) -> None:
        """Keeps the best paths into each candidate, (B, K). `total`: score of each path with each, (B, K, W, K)."""
        rows, before, width, candidates = total.shape
        if self._link.order == 3 and width > self._count:  # of equal last two tokens
            best, total = _highest(total, self._count)
        chosen, score = _highest(total.reshape(rows, -1, candidates), self._width)
        chosen, self._score = chosen.transpose(0, 2, 1), score.transpose(0, 2, 1)  # (B, K, W)
        kept = total.shape[2]
        parent = chosen // kept  # the candidate before
        first = (self._rows * before)[:, None, None]
        if kept < width:
            flat = (first * kept + chosen) * candidates + np.arange(candidates)[:, None]
            path = (first + parent) * width + best.reshape(-1)[flat]
        else:
            path = first * width + chosen
        text = np.empty((*path.shape, self._text.shape[3] + 1), dtype=np.int32)
        text[..., :-1] = self._text.reshape(-1, self._text.shape[3])[path]
        text[..., -1] = token[:, :, None]
        self._text = text
        if self._link.order == 3:
            self._bigram = bigram[self._rows[:, None, None], parent, np.arange(candidates)[:, None]]


_OF_ROWS = (
    "_kept", "_limit", "_least", "_open", "_token", "_score", "_text", "_bigram",
    "_ended_score", "_ended_text", "_ended_length",
)  # fmt: skip
"""Arrays of a search whose first dimension is the row."""


class _Transitions(NamedTuple):
    """From each candidate of the slot before to each of a slot and to the end: score, ratio and bigram (B, n, K, K + 1).

    Attributes:
        score: but for what a path's past says.
        ratio: of the bigram, in `UNIT`s.
        bigram: its index, -1: none.
        token: that follows: each candidate, and eos, (B, n, K + 1).
        scale: what a `UNIT` of these tokens' ratios counts in a path's score, (K + 1).
        may_end, must_end: whether a text ends before the slot, (B, n).
    """

    score: np.ndarray
    ratio: np.ndarray
    bigram: np.ndarray
    token: np.ndarray
    scale: np.ndarray
    may_end: np.ndarray
    must_end: np.ndarray


def best_paths(
    link: Link,
    pairs: SourcePairs,
    text: np.ndarray,
    length: np.ndarray,
    rules: Rules,
    slots: Slots,
    count: int = 1,
    weights: Weights | None = None,
) -> Paths:
    """The best paths through the slots of one pass; arguments as those of `PathSearch` and `PathSearch.extend`."""
    search = PathSearch(link, pairs, text, length, rules, count, weights)
    search.extend(slots)
    return search.best()


def path_scores(
    link: Link, pairs: SourcePairs, text: np.ndarray, log_probs: np.ndarray, length: np.ndarray, rules: Rules
) -> np.ndarray:
    """The scores of whole texts, as a search gives them, but for what broken rules cost.

    Args:
        text: ids, eos last, then pads, (B, T).
        log_probs: the network's, of these, (B, T).
        length: tokens of each, eos included, (B).
        rules: penalties; lengths play no part.
    Returns:
        float64, (B).
    """
    weights, rows = link.weights, len(text)
    before = np.concatenate([np.full((rows, 1), rules.eos), text[:, :-1]], axis=1)
    ratio, bigram = link.bigrams(before, text)
    if link.order == 3 and text.shape[1] > 1:
        shorter, context = ratio[:, 1:].reshape(-1, 1, 1), bigram[:, :-1].reshape(-1, 1, 1)
        longer = link.trigrams(context, text[:, 1:].reshape(-1, 1), shorter).reshape(rows, -1)
        ratio = np.concatenate([ratio[:, :1], longer], axis=1)
    ends = text == rules.eos
    score = log_probs + np.where(ends, weights.end, 1.0) * weights.weight / UNIT * ratio
    score += np.where(ends, -rules.eos_penalty, weights.bonus - rules.unk_penalty * (text == rules.unk))
    score += weights.gain * pairs.have(before * link.size + text)
    return np.where(np.arange(text.shape[1]) < length[:, None], score, 0.0).sum(1)


def _ranked(slots: Slots, rules: Rules) -> Slots:
    """The candidates by rank, without eos and pad."""
    tokens = slots.tokens.astype(np.int64)
    log_probs = np.where((tokens == rules.eos) | (tokens == rules.pad), _NONE, slots.log_probs)
    order = np.lexsort((tokens, -log_probs), axis=-1)
    return Slots(np.take_along_axis(tokens, order, 2), np.take_along_axis(log_probs, order, 2), slots.end)


def _best(x: np.ndarray, count: int) -> np.ndarray:
    """Indices of the highest of each row (B, n), (B, count or n): highest first, of equal ones the first."""
    return x.argmax(1)[:, None] if count == 1 else np.argsort(-x, axis=1, kind="stable")[:, :count]


def _highest(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest along the last dimension but one, and their indices: highest first, of equal ones the first.

    Args:
        x: (..., n, C), overwritten.
    Returns:
        Indices and scores, (..., count or n, C); -inf: there are not so many.
    """
    count = min(count, x.shape[-2])
    if count == 1:
        return x.argmax(-2)[..., None, :], x.max(-2)[..., None, :]
    if count > _FEW:
        index = np.argsort(-x, axis=-2, kind="stable")[..., :count, :]
        return index, np.take_along_axis(x, index, -2)
    flat = x.reshape(-1, *x.shape[-2:])
    row, column = np.arange(len(flat))[:, None], np.arange(x.shape[-1])
    index = np.empty((len(flat), count, x.shape[-1]), dtype=np.int64)
    found = np.empty(index.shape)
    for number in range(count):
        index[:, number], found[:, number] = flat.argmax(1), flat.max(1)
        if number < count - 1:
            flat[row, index[:, number], column] = _NONE
    shape = *x.shape[:-2], count, x.shape[-1]
    return index.reshape(shape), found.reshape(shape)


_FEW = 4  # so often an arg-max is quicker than a sort


def _wide(text: np.ndarray, width: int) -> np.ndarray:
    """Paths (B, N, any) with columns added."""
    wide = np.zeros((*text.shape[:2], width), dtype=text.dtype)
    wide[..., : text.shape[2]] = text
    return wide
