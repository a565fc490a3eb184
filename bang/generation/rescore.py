"""Texts of several lengths, of which the model's own AR stream picks one.

Slots of one pass do not see each other's tokens, so NAR and semi-NAR cannot judge whether their tokens make a
sentence together. AR can, and needs one pass for it where all tokens are known.
"""

import math

import numpy as np
import torch
from fairseq.data import data_utils
from torch import Tensor

from ..errors import UserError
from ..network.stepping import send
from ..visibility import autoregressive
from .generator import LoopGenerator
from .session import encode


class RescoringGenerator:
    """NAR or semi-NAR in up to `candidates` lengths; the text with the best AR score is the hypothesis.

    The first candidate has the length that the mode itself finds, L; the others are decoded with the length of L + 1,
    L - 1, L + 2, ... tokens, within the limits of the text. Scores are AR's: log-probabilities, normalised as the
    generator normalises its own.

    Args:
        generator: makes the candidates.
        candidates: how many, at least 2.
    """

    def __init__(self, generator: LoopGenerator, candidates: int):
        if candidates < 2:
            raise UserError(f"--rescore {candidates}: there is a choice from 2 candidates on (0: none)")
        self.generator, self.candidates = generator, candidates
        self.symbols_to_strip_from_output = generator.symbols_to_strip_from_output

    @torch.no_grad()
    def generate(self, models, sample: dict, prefix_tokens: Tensor | None = None, **unused) -> list[list[dict]]:
        """One hypothesis for each sentence of the batch."""
        net_input = sample["net_input"]
        encoded = encode(self.generator.models, net_input["src_tokens"], net_input["src_lengths"])  # once for all
        bounds = self.generator.bounds(sample)
        prefix_tokens = None if prefix_tokens is None else prefix_tokens.cpu()
        own = self.generator.generate(models, sample, prefix_tokens, encoded=encoded, bounds=bounds)
        length = np.array([len(found[0]["tokens"]) - 1 for found in own])
        found = [[texts[0]] for texts in own]  # by sentence
        for number in range(1, self.candidates):
            change = (number + 1) // 2 if number % 2 else -(number // 2)
            texts = self.generator.generate(models, sample, prefix_tokens, length + change, encoded, bounds)
            for row, (text,) in enumerate(texts):
                if not any(torch.equal(text["tokens"], other["tokens"]) for other in found[row]):
                    found[row].append(text)
        return [[max(texts, key=lambda text: text["score"].item())] for texts in self._rescore(encoded, found)]

    def _rescore(self, encoded: list[dict], found: list[list[dict]]) -> list[list[dict]]:
        """Gives the candidates AR's scores, in one pass over all of them and one host sync."""
        pad, eos = self.generator.chooser.pad, self.generator.chooser.eos
        device = encoded[0]["encoder_out"][0].device
        texts = [text["tokens"] for of_sentence in found for text in of_sentence]
        rows = send(np.repeat(np.arange(len(found)), [len(of_sentence) for of_sentence in found]), device)
        target = send(data_utils.collate_tokens(texts, pad, eos).numpy(), device)
        previous = send(data_utils.collate_tokens(texts, pad, eos, move_eos_to_beginning=True).numpy(), device)
        layout, of_models = autoregressive(target.size(1)), []
        for model, out in zip(self.generator.models, encoded):
            logits = model.decoder(previous, model.encoder.reorder_encoder_out(out, rows), layout=layout)
            log_probs = model.get_normalized_probs(logits, log_probs=True)
            of_models.append(log_probs.gather(2, target[:, :, None])[:, :, 0].float())
        log_probs = torch.logsumexp(torch.stack(of_models), 0) - math.log(len(of_models))
        scores = (row[: len(text)] for row, text in zip(log_probs.cpu(), texts))
        return [[self._with_scores(text, next(scores)) for text in of_sentence] for of_sentence in found]

    def _with_scores(self, text: dict, scores: Tensor) -> dict:
        return {**text, "score": self.generator.normalized(scores), "positional_scores": scores}
