"""What a session does in every backend: which slots of a pass are read, and which tokens they give.

Shapes: B rows, N slots of a pass, G blocks, n slots that are read.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Self

import numpy as np

from .candidates import Slots
from .choice import Bounds, Chooser
from .passes import Pass, drafting_slots


class BaseSession(ABC):
    """A `passes.Session` without its network, which a backend adds by the abstract methods.

    Attributes:
        xp: numpy or torch, what the arrays are of where tokens are chosen.
        chooser: which token a slot gives.
        bounds: of the rows.
        source: ids of the sources, pads beyond their ends, (B, S).
    """

    xp: Any = np
    chooser: Chooser
    bounds: Bounds
    source: Any

    @abstractmethod
    def forward(self, step: Pass) -> list:
        """Runs the network. Returns what it gives for each slot: arrays (B, N, any)."""

    @abstractmethod
    def choose(self, slots: list, target: Any, forced: Any, banned: Any, ends: bool) -> tuple[Any, Any]:
        """Tokens and log-probabilities (B, n) of slots, some of those of `forward`."""

    @abstractmethod
    def logits(self, slots: list) -> list:
        """Logits or log-probabilities of the whole vocabulary, of each model (B, n, V)."""

    @abstractmethod
    def forget(self) -> None:
        """Drops the keys and values of what has been decoded, as those of this object alone."""

    @abstractmethod
    def keep(self, rows: np.ndarray) -> None:
        """As `passes.Session.keep`; must leave the arrays as they are, which a `fork` may have."""

    def fork(self, rows: np.ndarray | None = None) -> Self:
        """Another session over the sources of these rows, (B'), which may repeat (None: of all), with nothing decoded."""
        found = copy.copy(self)
        found.forget()
        if rows is not None:
            found.keep(rows)
        return found

    def send(self, x: np.ndarray) -> Any:
        """An array of the loop's, where the tokens are chosen."""
        return x

    def read(self, tokens: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
        """What a pass gave, on the host."""
        return tokens, scores

    def read_slots(self, tokens: Any, log_probs: Any, end: Any) -> Slots:
        """The candidates of a pass, on the host."""
        return Slots(tokens, log_probs, end)

    def prepare(self, slots: list) -> list:
        """Slots that are about to be read in two steps; a backend may compute what both need."""
        return slots

    def run(self, step: Pass) -> tuple[np.ndarray, np.ndarray]:
        """As `passes.Session.run`."""
        slots = self.forward(step)
        first_target = self.send(step.anchor if step.main else step.first[:, None])  # (B, G)
        if step.blocks == 1 and step.source_gain is None:
            forced = step.forced
            if forced is not None and step.drafts:
                forced = np.concatenate([forced, np.full((len(forced), step.drafts), -1)], axis=1)
            target = first_target + self.send(np.arange(1 + step.drafts))
            return self.read(*self.choose(slots, target, forced, step.banned, step.ends))
        return self.read(*self._verify_and_draft(step, self.prepare(slots), first_target))

    def likeliest(self, step: Pass, count: int) -> Slots:
        """As `passes.Session.likeliest`."""
        return self.read_slots(*self.chooser.likeliest(self.xp, self.logits(self.forward(step)), count))

    def scores(self, step: Pass) -> np.ndarray:
        """The network's log-probabilities of the tokens that a pass forces, float32, (B, G): no rule or penalty is applied."""
        plain = replace(self.chooser, unk_penalty=0.0, eos_penalty=0.0, temperature=1.0, sampling=False)
        assert step.forced is not None and not step.drafts
        logits = self.logits(self.forward(step))
        return self.read(*plain(self.xp, logits, self.send(step.anchor), None, self.send(step.forced)))[1]

    def _verify_and_draft(self, step: Pass, slots: list, first_target: Any) -> tuple[Any, Any]:
        """Reads the first slot of each block, then the drafts of the block behind the last accepted token."""
        xp = self.xp
        starts = self.send(np.cumsum([0, *step.block_sizes[:-1]]))
        given, scores = self.choose([x[:, starts] for x in slots], first_target, step.forced, step.banned, step.ends)
        if not step.drafts:
            return given, scores
        before, slot, target, missing = drafting_slots(step, given, self.send)
        behind = [x[self.send(np.arange(len(given)))[:, None], slot] for x in slots]
        if step.source_gain:
            drafts, draft_scores = self.chooser.draft(
                xp, self.logits(behind), target, self.rules(step.ends), before, self.source, step.source_gain, missing, step.sure
            )
        else:
            drafts, draft_scores = self.choose(behind, target, None, None, step.ends)
            drafts = xp.where(missing, self.chooser.pad, drafts)
        return xp.concatenate([given, drafts], 1), xp.concatenate([scores, draft_scores], 1)

    def rules(self, ends: bool) -> Bounds | None:
        """The bounds, if a slot may be near one or the rows' random numbers are asked for."""
        return self.bounds if ends or self.chooser.sampling else None
