"""The decoding loop with the contract of fairseq's SequenceGenerator."""

import numpy as np
import torch
from torch import Tensor

from ..decoding.choice import Bounds, Chooser
from ..decoding.limits import check_lengths, least_length, length_limits
from ..decoding.link import Link
from ..decoding.linked import Linked
from ..decoding.loop import Decoding, Text
from ..modes import Strategy
from .session import TorchSession
from .statistics import Statistics


class LoopGenerator:
    """Decodes batches by `loop.Decoding`: greedily or by sampling, one hypothesis for each sentence.

    A text ends at its first eos, in NAR at the first that follows another token, or at its limit of
    tokens: `max_len_a` times its own source length plus `max_len_b`, at most `max_len`.

    Args:
        models: ensemble; probabilities are averaged.
        strategy: how many tokens a pass gives, and which are kept.
        chooser: which token a slot gives.
        max_len_a, max_len_b: limit on the tokens of a text, eos not counted.
        max_len: limit whatever the source, 0: the model's.
        min_len: no eos before so many tokens; a limit wins. NAR's default of 1 needs no masking: its cut skips leading eos.
        no_repeat_ngram: no n-gram of so many tokens comes twice (0: it may).
        normalize_scores, len_penalty: score is the sum of log-probabilities, eos included, over
            length ** len_penalty.
        statistics: counts the passes.
        link: chooses the tokens of strategies that keep them unverified; None: each slot gives its own.
    """

    def __init__(
        self,
        models,
        strategy: Strategy,
        chooser: Chooser,
        max_len_a: float = 0,
        max_len_b: int = 200,
        max_len: int = 0,
        min_len: int = 1,
        no_repeat_ngram: int = 0,
        normalize_scores: bool = True,
        len_penalty: float = 1.0,
        statistics: Statistics | None = None,
        link: Link | None = None,
    ):
        check_lengths(max_len_a, max_len_b, min_len, max_len)
        self.models, self.strategy, self.chooser = models, strategy, chooser
        self.symbols_to_strip_from_output = {chooser.eos}
        self.max_len_a, self.max_len_b = max_len_a, max_len_b
        self.min_len = least_length(min_len, strategy.anchored, chooser.eos_penalty)
        # positions of slots run to max_decoder_positions + 1, so the final eos needs no spare one
        self.max_len = min([model.max_decoder_positions() - 1 for model in models] + ([max_len] if max_len else []))
        self.no_repeat_ngram = no_repeat_ngram
        self.normalize_scores, self.len_penalty = normalize_scores, len_penalty
        self.statistics, self.link = statistics, link
        for model in models:
            model.eval()

    def bounds(self, sample: dict) -> Bounds:
        """What each text of a batch must keep to, on the host."""
        lengths = sample["net_input"]["src_lengths"]
        key = sample["id"] if "id" in sample else torch.arange(len(lengths), device=lengths.device)
        lengths, key = torch.stack([lengths, key]).cpu().numpy()  # one host sync
        limit = length_limits(lengths, self.max_len_a, self.max_len_b, self.max_len)
        return Bounds(np.minimum(self.min_len, limit), limit, key)

    @torch.no_grad()
    def generate(
        self,
        models,
        sample: dict,
        prefix_tokens: Tensor | None = None,
        length: np.ndarray | None = None,
        encoded: list[dict] | None = None,
        bounds: Bounds | None = None,
        **unused,
    ) -> list[list[dict]]:
        """One hypothesis for each sentence of the batch, as fairseq's generators return them.

        Args:
            length: tokens, eos not counted, that each text is to have, (B), as far as the limits let it; None: free.
            encoded: of the sources, as `session.encode` gives it; None: encode them.
            bounds: as `bounds` gives them; None: ask the device.
        """
        net_input = sample["net_input"]
        src_tokens, src_lengths = net_input["src_tokens"], net_input["src_lengths"]
        least, limit, key = bounds or self.bounds(sample)
        if length is not None:
            least = limit = np.minimum(np.maximum(length, np.maximum(least, 1)), limit)
        session = TorchSession(self.models, src_tokens, src_lengths, self.chooser, Bounds(least, limit, key), encoded)
        prefix = prefix_tokens.cpu().numpy() if prefix_tokens is not None and self.strategy.anchored else None
        linked = None if self.link is None else Linked(self.link, src_tokens.cpu().numpy(), self.chooser)
        texts = Decoding(
            session, self.strategy, least, limit, self.chooser.pad, self.chooser.eos, prefix, self.no_repeat_ngram, linked
        ).run()
        if self.statistics is not None and length is None:  # a sentence counts once
            self.statistics.add(texts)
        return [[self._hypothesis(text)] for text in texts]

    def _hypothesis(self, text: Text) -> dict:
        scores = torch.from_numpy(text.scores)
        return {
            "tokens": torch.from_numpy(text.tokens),
            "score": self.normalized(scores),
            "attention": None,
            "alignment": torch.empty(0),
            "positional_scores": scores,
            "passes": torch.from_numpy(text.passes),
        }

    def normalized(self, scores: Tensor) -> Tensor:
        """The score of a text from those of its tokens, eos included."""
        return scores.sum() / (len(scores) ** self.len_penalty if self.normalize_scores else 1)
