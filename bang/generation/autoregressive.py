"""AR decoding: fairseq's beam search and sampling, with its defects mended."""

import math

import torch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from torch import Tensor, nn


class NgramBlocker(nn.Module):
    """Forbids the tokens that would repeat an n-gram of the hypothesis.

    fairseq's own compares the end of the pre-allocated buffer, pads, and so never fires on the CPU.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, tokens: Tensor, lprobs: Tensor, bsz: int, beam_size: int, step: int) -> Tensor:
        """
        Args:
            tokens: hypotheses so far in a padded buffer, the start symbol first, (rows, length).
            lprobs: log-probabilities of the next token, (rows, V).
            step: tokens generated so far.
        Returns:
            lprobs with -inf at the tokens that would repeat an n-gram.
        """
        if step + 1 < self.size:
            return lprobs
        ngrams = tokens[:, : step + 1].unfold(1, self.size, 1)  # (rows, ngrams, n)
        last = tokens[:, step + 2 - self.size : step + 1]  # what the next token would complete
        repeats = (ngrams[:, :, :-1] == last[:, None]).all(dim=2)
        if self.size == 1:
            repeats[:, 0] = False  # the start symbol is eos, which must stay possible
        rows, which = repeats.nonzero(as_tuple=True)
        lprobs[rows, ngrams[rows, which, -1]] = -math.inf
        return lprobs


class _Mended:
    """Mixin for fairseq's generators: n-grams are blocked, and a sentence is decoded as if alone."""

    def __init__(self, *args, no_repeat_ngram_size: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        if no_repeat_ngram_size > 0:
            self.repeat_ngram_blocker = NgramBlocker(no_repeat_ngram_size)

    @torch.no_grad()
    def generate(self, models, sample, prefix_tokens=None, constraints=None, **kwargs):
        """As fairseq's, but --max-len-a counts a sentence's own length, not the padded batch's."""
        for model in self.model.models:
            if hasattr(model, "set_beam_size"):  # not all of fairseq's own have it
                model.set_beam_size(self.beam_size)
        src_tokens, src_lengths = (sample["net_input"][name] for name in ("src_tokens", "src_lengths"))
        widths = src_lengths.tolist()
        if not self.max_len_a or set(widths) == {src_tokens.size(1)}:
            return super().generate(models, sample, prefix_tokens=prefix_tokens, constraints=constraints, **kwargs)
        finalized, min_len = [None] * len(widths), self.min_len
        try:
            for width in sorted(set(widths)):
                rows = [row for row, other in enumerate(widths) if other == width]
                pick = torch.tensor(rows, device=src_tokens.device)
                unpadded = src_tokens[pick][src_tokens[pick] != self.pad].view(len(rows), width)
                part = dict(sample, net_input={"src_tokens": unpadded, "src_lengths": src_lengths[pick]})
                if isinstance(sample.get("id"), Tensor):
                    part["id"] = sample["id"][pick]
                self.min_len = min(min_len, int(self.max_len_a * width + self.max_len_b))  # a limit wins
                hypotheses = super().generate(
                    models,
                    part,
                    prefix_tokens=None if prefix_tokens is None else prefix_tokens[pick],
                    constraints=None if constraints is None else constraints[pick.to(constraints.device)],
                    **kwargs,
                )
                for row, hypothesis in zip(rows, hypotheses):
                    finalized[row] = hypothesis
        finally:
            self.min_len = min_len
        return finalized


class ArGenerator(_Mended, SequenceGenerator):
    """fairseq's SequenceGenerator."""


class AlignedArGenerator(_Mended, SequenceGeneratorWithAlignment):
    """fairseq's SequenceGeneratorWithAlignment, for --print-alignment."""
