"""A link at work on a batch: in the decoding loop its path search takes the place of each slot's most probable token."""

from dataclasses import dataclass

import numpy as np

from .choice import Chooser
from .link import Link
from .search import PathSearch, Rules


@dataclass
class Linked:
    """What the loop needs to search paths.

    Attributes:
        link: n-grams, with the weights of the search.
        source: ids of the rows' sources, padded, on the host, (B, S).
        chooser: ids of pad, unk and eos, and the penalties of the last two.
    """

    link: Link
    source: np.ndarray
    chooser: Chooser

    @property
    def candidates(self) -> int:
        """Tokens of a slot that are looked at, K."""
        return min(self.link.weights.candidates, self.link.size)

    def search(self, text: np.ndarray, length: np.ndarray, least: np.ndarray, limit: np.ndarray) -> PathSearch:
        """A search that goes on from what is kept of the texts; arguments as those of `PathSearch` and `Rules`."""
        rule = self.chooser
        rules = Rules(least, limit, rule.pad, rule.eos, rule.unk, rule.eos_penalty, rule.unk_penalty)
        return PathSearch(self.link, self.source, text[:, : int(length.max())], length, rules)

    def keep(self, rows: np.ndarray) -> None:
        """Goes on with these rows alone, (B'), in this order."""
        self.source = self.source[rows]
