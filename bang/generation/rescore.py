"""Texts of several lengths, of which the model's own AR stream picks one.

Slots of one pass do not see each other's tokens, so what NAR and semi-NAR cannot tell is whether their tokens make a
sentence together. AR can, and needs one pass for it where all tokens are known.
"""

from typing import List, Optional

import numpy as np
import torch
from fairseq.data import data_utils
from fairseq.sequence_scorer import SequenceScorer
from torch import Tensor

from ..visibility import Layout
from .generator import LoopGenerator
from .torch_session import encode


class _Encoded:
    """A model whose sources are encoded already, as fairseq's scorer calls it.

    Args:
        model: a `BangModel`.
        encoded: its encoder's output for A sources.
        rows: of them, the source of each text to score, (B).
    """

    def __init__(self, model, encoded: dict, rows: Tensor):
        self.decoder, self.eval, self.get_normalized_probs = model.decoder, model.eval, model.get_normalized_probs
        self.encoded = model.encoder.reorder_encoder_out(encoded, rows)

    def __call__(self, prev_output_tokens: Tensor, layout: Layout):
        return self.decoder(prev_output_tokens, self.encoded, layout=layout)


class RescoringGenerator:
    """NAR or semi-NAR in up to `candidates` lengths; the text with the best AR score is the hypothesis.

    The first candidate has the length that the mode itself finds, L; the others are decoded with the length of L + 1,
    L - 1, L + 2, ... tokens, within the limits of the text. Scores are AR's: log-probabilities, normalised as the
    generator normalises its own.

    Args:
        generator: makes the candidates.
        scorer: scores given targets in AR.
        candidates: how many, at least 2.
    """

    def __init__(self, generator: LoopGenerator, scorer: SequenceScorer, candidates: int):
        if candidates < 2:
            raise ValueError(f"--rescore {candidates}: there is a choice from 2 candidates on (0: none)")
        self.generator, self.scorer, self.candidates = generator, scorer, candidates
        self.symbols_to_strip_from_output = generator.symbols_to_strip_from_output

    @torch.no_grad()
    def generate(self, models, sample: dict, prefix_tokens: Optional[Tensor] = None, **unused) -> List[List[dict]]:
        """One hypothesis for each sentence of the batch."""
        net_input = sample["net_input"]
        encoded = encode(self.generator.models, net_input["src_tokens"], net_input["src_lengths"])  # once for all
        own = self.generator.generate(models, sample, prefix_tokens, encoded=encoded)
        length = np.array([len(found[0]["tokens"]) - 1 for found in own])
        found = [[texts[0]] for texts in own]  # by sentence
        for number in range(1, self.candidates):
            change = (number + 1) // 2 if number % 2 else -(number // 2)
            texts = self.generator.generate(models, sample, prefix_tokens, length=length + change, encoded=encoded)
            for row, (text,) in enumerate(texts):
                if not any(torch.equal(text["tokens"], other["tokens"]) for other in found[row]):
                    found[row].append(text)
        return [[max(texts, key=lambda text: text["score"].item())] for texts in self._rescore(encoded, found)]

    def _rescore(self, encoded: List[dict], found: List[List[dict]]) -> List[List[dict]]:
        """Gives the candidates AR's scores, in one pass over all of them."""
        pad, eos = self.scorer.pad, self.scorer.eos
        device = encoded[0]["encoder_out"][0].device
        rows = torch.tensor([row for row, texts in enumerate(found) for _ in texts], device=device)
        tokens = [text["tokens"] for texts in found for text in texts]
        target = data_utils.collate_tokens(tokens, pad, eos).to(device)
        previous = data_utils.collate_tokens(tokens, pad, eos, move_eos_to_beginning=True).to(device)
        models = [_Encoded(model, out, rows) for model, out in zip(self.generator.models, encoded)]
        scored = self.scorer.generate(models, {"target": target, "net_input": {"prev_output_tokens": previous}})
        scores = iter(scored)
        return [[self._with_scores(text, next(scores)[0]) for text in texts] for texts in found]

    def _with_scores(self, text: dict, scored: dict) -> dict:
        positional = scored["positional_scores"].float().cpu()
        assert len(positional) == len(text["tokens"])
        return {**text, "score": self.generator.normalized(positional), "positional_scores": positional}
