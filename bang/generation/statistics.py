"""Counts the tokens that each pass gives, and logs the mean at the end of a run."""

import json
import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np

from ..decoding.loop import Text

logger = logging.getLogger(__name__)


class Statistics:
    """Counts passes and the tokens, eos included, that each gave its sentence.

    Attributes:
        decoding: name of the mode.
        texts: sentences decoded.
        kept: how many passes gave a sentence so many tokens, {tokens: passes}.
    """

    def __init__(self, decoding: str):
        self.decoding = decoding
        self.texts = 0
        self.kept: Counter[int] = Counter()

    def add(self, texts: Iterable[Text]) -> None:
        """Counts the texts of a batch."""
        for text in texts:
            self.texts += 1
            self.kept.update(np.bincount(text.passes).tolist())

    def summary(self) -> dict:
        """The counts as plain data."""
        passes, tokens = sum(self.kept.values()), sum(kept * times for kept, times in self.kept.items())
        return {
            "decoding": self.decoding,
            "texts": self.texts,
            "tokens": tokens,
            "passes": passes,
            "tokens_a_pass": round(tokens / max(passes, 1), 3),
            "passes_by_tokens_kept": {str(kept): self.kept[kept] for kept in sorted(self.kept)},
        }

    def report(self, as_json: bool) -> None:
        """Logs what was decoded, if anything was."""
        found = self.summary()
        if not self.texts:
            return
        if as_json:
            logger.info(json.dumps(found))
            return
        histogram = ", ".join(f"{kept}: {times}" for kept, times in found["passes_by_tokens_kept"].items())
        logger.info(
            "%s: %d texts, %d tokens in %d passes, %.2f tokens a pass; passes by tokens kept: %s",
            self.decoding, self.texts, found["tokens"], found["passes"], found["tokens_a_pass"], histogram,
        )  # fmt: skip
