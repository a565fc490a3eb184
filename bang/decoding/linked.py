"""A link in the decoding loop: a path search replaces the choice of each slot's most probable token."""

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
        count: best paths per row, N.
        ahead: slots after a block that the search covers too; their tokens are not kept.
    """

    def __init__(self, link: Link, source: np.ndarray, chooser: Chooser, count: int = 1, ahead: int = 0):
        self.link, self.count, self.ahead, self._chooser = link, count, ahead, chooser
        self._pairs = self._all_pairs = SourcePairs(source, link.size, (chooser.pad, chooser.eos))

    @property
    def candidates(self) -> int:
        """Candidate tokens per slot, K."""
        return min(self.link.weights.candidates, self.link.size)

    def search(self, text: np.ndarray, length: np.ndarray, least: np.ndarray, limit: np.ndarray) -> PathSearch:
        """A search that continues the kept tokens of the texts; arguments as for `PathSearch` and `Rules`."""
        text = text[:, : int(length.max())]
        return PathSearch(self.link, self._pairs, text, length, self._rules(least, limit), self.count)

    def scores(self, texts: list[np.ndarray], log_probs: list[np.ndarray], rows: list[int]) -> np.ndarray:
        """Path scores of complete texts, eos last, (n). `rows`: the batch row of each text, for its source."""
        length = np.array([len(text) for text in texts])
        inside = np.arange(length.max()) < length[:, None]
        tokens, scores = np.full(inside.shape, self._chooser.pad), np.zeros(inside.shape)
        tokens[inside], scores[inside] = np.concatenate(texts), np.concatenate(log_probs)
        pairs = self._all_pairs.of(np.array(rows))
        return path_scores(self.link, pairs, tokens, scores, length, self._rules(length, length))

    def keep(self, rows: np.ndarray) -> None:
        """Keeps these rows only, (B'), in this order."""
        self._pairs = self._pairs.of(rows)

    def _rules(self, least: np.ndarray, limit: np.ndarray) -> Rules:
        rule = self._chooser
        return Rules(least, limit, rule.pad, rule.eos, rule.unk, rule.eos_penalty, rule.unk_penalty)
