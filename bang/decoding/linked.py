"""A link at work on a batch: in the decoding loop its path search takes the place of each slot's most probable token."""

import numpy as np

from .choice import Chooser
from .link import Link
from .search import PathSearch, Rules, path_scores
from .source_pairs import SourcePairs


class Linked:
    """What the loop needs to search paths.

    Args:
        link: n-grams, with the weights of the search.
        source: ids of the rows' sources, padded, on the host, (B, S).
        chooser: ids of pad, unk and eos, and the penalties of the last two.
        count: best paths of each row that are wanted, N.
        ahead: slots behind a block that a path is searched through, too; what it has there is not kept.
    """

    def __init__(self, link: Link, source: np.ndarray, chooser: Chooser, count: int = 1, ahead: int = 0):
        self.link, self.count, self.ahead, self._chooser = link, count, ahead, chooser
        self._pairs = self._all_pairs = SourcePairs(source, link.size, (chooser.pad, chooser.eos))

    @property
    def candidates(self) -> int:
        """Tokens of a slot that are looked at, K."""
        return min(self.link.weights.candidates, self.link.size)

    def search(self, text: np.ndarray, length: np.ndarray, least: np.ndarray, limit: np.ndarray) -> PathSearch:
        """A search that goes on from what is kept of the texts; arguments as those of `PathSearch` and `Rules`."""
        text = text[:, : int(length.max())]
        return PathSearch(self.link, self._pairs, text, length, self._rules(least, limit), self.count)

    def scores(self, texts: list[np.ndarray], log_probs: list[np.ndarray], rows: list[int]) -> np.ndarray:
        """Scores of whole texts as paths, eos last; `rows`: of the batch, whose sources they are of. (n)"""
        length = np.array([len(text) for text in texts])
        inside = np.arange(length.max()) < length[:, None]
        tokens, scores = np.full(inside.shape, self._chooser.pad), np.zeros(inside.shape)
        tokens[inside], scores[inside] = np.concatenate(texts), np.concatenate(log_probs)
        pairs = self._all_pairs.of(np.array(rows))
        return path_scores(self.link, pairs, tokens, scores, length, self._rules(length, length))

    def keep(self, rows: np.ndarray) -> None:
        """Goes on with these rows alone, (B'), in this order."""
        self._pairs = self._pairs.of(rows)

    def _rules(self, least: np.ndarray, limit: np.ndarray) -> Rules:
        rule = self._chooser
        return Rules(least, limit, rule.pad, rule.eos, rule.unk, rule.eos_penalty, rule.unk_penalty)
