"""Which token a slot gives: the rules of choice, in numpy and torch alike.

Shapes: B rows, n slots of a row, V vocabulary.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from . import candidates


class Bounds(NamedTuple):
    """What a row's text must keep to: integer arrays (B), of numpy or torch.

    Attributes:
        least: tokens before which no eos may come; at most `limit`.
        limit: tokens after which eos must come.
        key: what makes the row's random numbers its own.
    """

    least: Any
    limit: Any
    key: Any


def draw_keys(sources: Sequence[np.ndarray], draws: int) -> np.ndarray:
    """`Bounds.key` of texts that are drawn from sources, so many of each, (B * draws).

    They follow from the ids of the source alone: a draw is the same in every batch and order.
    """
    found = (_hash(zlib.crc32(ids.astype("<i8").tobytes())) + draw for ids in sources for draw in range(draws))
    return np.fromiter(found, np.int64)


@dataclass(frozen=True)
class Chooser:
    """Takes the most probable token, or draws one, within the rules.

    Drawing is arg-max too, of log-probability plus Gumbel noise that follows from the seed, the
    row's key, the target's index and the token alone. So a text is the same whatever the batch and
    however many tokens a pass commits; and a draft drawn with the same noise as the slot that
    verifies it agrees with it nearly as often as the two distributions allow.

    Attributes:
        pad, unk, eos: ids; pad is never chosen.
        unk_penalty: taken off the log-probability of unk.
        eos_penalty: taken off the log-probability of eos, so that texts go on where they are not sure to end.
        temperature: divides the logits.
        sampling: draw instead of taking the most probable token.
        topk: draw among so many most probable tokens (0 or less: all).
        topp: draw among the fewest tokens that hold so much probability (0 or less: all); goes before topk.
        seed: of the noise.
    """

    pad: int
    unk: int
    eos: int
    unk_penalty: float = 0.0
    eos_penalty: float = 0.0
    temperature: float = 1.0
    sampling: bool = False
    topk: int = -1
    topp: float = -1.0
    seed: int = 0

    def __post_init__(self):
        if self.temperature <= 0:
            raise UserError(f"--temperature {self.temperature}: must be above 0")

    def __call__(
        self,
        xp: ModuleType,
        logits: list,
        target,
        bounds: Bounds | None = None,
        forced=None,
        banned: tuple | None = None,
        scored: bool = True,
        favoured: tuple | None = None,
    ):
        """
        Args:
            xp: numpy or torch, what the arrays are of.
            logits: of each model of an ensemble, (B, n, V) in float32; may be overwritten.
                Probabilities are averaged.
            target: index of the target that each slot predicts, (B, n).
            bounds: of the rows; None: no slot is near one and nothing is drawn.
            forced: token that a slot must give, -1 where it is free, (B, n).
            banned: rows, slots and tokens that must not come together, three arrays of one length.
            scored: False: log-probabilities are not needed, return zeros.
            favoured: rows, slots and tokens, and what is added to the log-probabilities of these,
                four arrays that broadcast.
        Returns:
            Tokens and their log-probabilities, (B, n): the model's own, without sampling noise, not
            renormalized after masking, as in fairseq.
        """
        x, total = self._scores(xp, logits, scored or self.topp > 0)
        x[..., self.pad] = -float("inf")
        if self.unk_penalty:
            x[..., self.unk] -= self.unk_penalty
        if self.eos_penalty:
            x[..., self.eos] -= self.eos_penalty
        if bounds is not None:
            early = target < bounds.least[:, None]
            last = target >= bounds.limit[:, None]
            if forced is not None:
                early = early & (forced < 0)
                last = last & (forced < 0)
            x[..., self.eos] = xp.where(early, -float("inf"), x[..., self.eos])
        if favoured is not None:
            *where, gain = favoured
            x[tuple(where)] += gain
        if banned is not None:
            x[banned] = -float("inf")
        token = self._pick(xp, x, total, target, bounds and bounds.key)
        if bounds is not None:
            token = xp.where(last, self.eos, token)
        if forced is not None:
            token = xp.where(forced >= 0, forced, token)
        return token, _at(x, token) - total if scored else xp.zeros_like(x[..., 0])

    def draft(self, xp: ModuleType, logits: list, target, bounds: Bounds | None, before, source, gain, missing, sure=None):
        """Drafts to be verified, (B, D): the slots' choice, helped by the source.

        Slots do not see each other's tokens, but the source shows what may follow a word or a piece
        of one: a token gains that stands there behind the draft before it. A draft that repeats
        the one before is never chosen, and one that has no slot comes from the source alone. What a
        slot is sure of no source outdoes.

        Args:
            logits, target, bounds: as in `__call__`, n = D.
            before: token that the first draft follows, (B).
            source: token ids, (B, S).
            gain: what the log-probability of tokens gains that follow in the source; 0: the slots alone choose.
            missing: drafts that have no slot, (B, D); their logits are those of one nearby.
            sure: log-probability from which on a slot is sure of a token; None: never.
        Returns:
            Tokens, pad where there is neither slot nor source, and the log-probabilities of those that a slot
            is sure of; the others, which are worth nothing before they are verified, have -inf.
        """
        own, score = target, xp.zeros_like(logits[0][..., 0])
        certain = xp.zeros_like(missing)
        if sure is not None:
            own, score = self(xp, [x + 0 for x in logits], target, bounds)  # x + 0: the logits are wanted again
            certain = (score >= sure) & ~missing
        if not gain:
            own = own if sure is not None else self(xp, logits, target, bounds, scored=False)[0]
            return xp.where(missing, self.pad, own), xp.where(certain, score, -float("inf"))
        rows, drafts, kept = _count(before), [], []
        behind = xp.where(source[:, 1:] == self.eos, self.pad, source[:, 1:])
        for i in range(target.shape[1]):
            without = missing[:, i : i + 1]
            # pad, which is never chosen, stands in for what does not follow
            follows = xp.where(source[:, :-1] == before[:, None], behind, self.pad)
            favoured = rows[:, None], 0 * rows[:, None], follows, xp.where(without, _CERTAIN, gain)
            one = [x[:, i : i + 1] for x in logits]
            token, _ = self(xp, one, target[:, i : i + 1], bounds, None, (rows, 0 * rows, before), False, favoured)
            token = xp.where(without & ~(follows == token).any(1)[:, None], self.pad, token)
            kept.append(certain[:, i : i + 1] & (own[:, i : i + 1] != before[:, None]))
            drafts.append(xp.where(kept[-1], own[:, i : i + 1], token))
            before = drafts[-1][:, 0]
        return xp.concatenate(drafts, 1), xp.where(xp.concatenate(kept, 1), score, -float("inf"))

    def likeliest(self, xp: ModuleType, logits: list, count: int):
        """What a search may choose from, before any rule but that pad is never chosen.

        Args:
            logits: of each model of an ensemble, (B, n, V) in float32; may be overwritten.
            count: K, at most V.
        Returns:
            The likeliest tokens of each slot but pad and eos, (B, n, K), their log-probabilities, and those of eos, (B, n).
        """
        x, total = self._scores(xp, logits, True)
        end = x[..., self.eos] - total
        x[..., self.pad] = -float("inf")
        x[..., self.eos] = -float("inf")
        if hasattr(x, "topk"):
            scores, tokens = x.topk(count)
        else:
            tokens, scores = candidates.likeliest(x, count)
        return tokens, scores - total[..., None], end

    def _scores(self, xp, logits: list, scored: bool):
        """Logits of the average, (B, n, V), and their log-sum-exp, (B, n), or None if not `scored`."""
        if self.temperature != 1:
            logits = [x / self.temperature for x in logits]
        if len(logits) == 1:
            return logits[0], _logsumexp(xp, logits[0]) if scored else None
        mean = sum(xp.exp(x - _logsumexp(xp, x)[..., None]) for x in logits) / len(logits)
        return xp.log(mean), xp.zeros_like(mean[..., 0])

    def _pick(self, xp, x, total, target, key):
        if not self.sampling:
            return x.argmax(-1)
        if self.topk > 0 and not self.topp > 0:
            best = _best(xp, x, min(self.topk, x.shape[-1]))
            drawn = (_take(xp, x, best) + self._gumbel(xp, best, target, key)).argmax(-1)
            return _take(xp, best, drawn[..., None])[..., 0]
        if self.topp > 0:
            ranked = xp.sort(x, -1)
            ranked = getattr(ranked, "values", ranked)  # torch gives indices too
            mass = xp.exp(ranked - total[..., None]).cumsum(-1)
            above = mass[..., -1:] - mass  # probability of what ranks higher
            lowest = xp.amin(xp.where(above < self.topp, ranked, float("inf")), -1)
            x = xp.where(x < lowest[..., None], -float("inf"), x)
        return (x + self._gumbel(xp, _count(x[0, 0]), target, key)).argmax(-1)

    def _gumbel(self, xp, piece, target, key):
        """Gumbel noise of pieces, (V) or (B, n, k), at each slot: (B, n, V or k)."""
        slot = _hash(_hash(_hash(key) + self.seed)[:, None] + target)[..., None]
        # spread: neighbours must not be near in what is hashed
        uniform = (xp.asarray(_hash(slot + piece * 0x9E3779B1), dtype=xp.float32) + 0.5) * 2.0**-32
        return -xp.log(-xp.log1p(-uniform.clip(max=1 - 2.0**-24)))  # float32 rounds the last of them up to 1


_CERTAIN = 1e4  # a log-probability that outweighs all others


def _best(xp, x, number: int):
    """Indices of the highest along the last dimension of x, (..., number), in no order."""
    if hasattr(x, "topk"):
        return x.topk(number, sorted=False).indices
    return xp.argpartition(x, -number, -1)[..., -number:]


def _take(xp, x, index):
    """x at indices along its last dimension."""
    return x.gather(-1, index) if hasattr(x, "gather") else xp.take_along_axis(x, index, -1)


def _at(x, token):
    """x (B, n, V) at token (B, n)."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[_count(token.reshape(-1)), token.reshape(-1)].reshape(token.shape)


def _count(x):
    """0, 1, 2 ... along the last dimension of x, in kind."""
    return (x == x).cumsum(-1) - 1


def _logsumexp(xp, x):
    most = xp.amax(x, -1)
    return xp.log(xp.exp(x - most[..., None]).sum(-1)) + most


_LOW = (1 << 32) - 1


def _hash(x):
    """Mixes integers below 2 ** 32 into others of that range (Wellons' lowbias32); int64 in, int64 out."""
    x = x & _LOW
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _LOW
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _LOW
    return x ^ (x >> 16)
