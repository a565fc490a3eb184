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

    def _generate(self, sample, prefix_tokens=None, constraints=None, bos_token=None):
        """As fairseq's, but --max-len-a counts a sentence's own length, not the padded batch's."""
        for model in self.model.models:
            model.set_beam_size(self.beam_size)
        net_input = sample["net_input"]
        widths = net_input["src_lengths"].tolist()
        if not self.max_len_a or len(set(widths)) == 1 == len({net_input["src_tokens"].size(1), *widths}):
            return super()._generate(sample, prefix_tokens, constraints, bos_token)
        finalized = [None] * len(widths)
        for width in sorted(set(widths)):
            rows = [row for row, other in enumerate(widths) if other == width]
            pick = torch.tensor(rows, device=net_input["src_tokens"].device)
            part = dict(sample, net_input=strip_padding(net_input, pick, width, self.pad))
            if isinstance(sample.get("id"), Tensor):
                part["id"] = sample["id"][pick]
            hypotheses = super()._generate(
                part,
                None if prefix_tokens is None else prefix_tokens[pick],
                None if constraints is None else constraints[pick.cpu()],
                bos_token,
            )
            for row, hypothesis in zip(rows, hypotheses):
                finalized[row] = hypothesis
        return finalized


def strip_padding(net_input: dict, pick: Tensor, width: int, pad: int) -> dict:
    """The rows `pick` of a batch, all of one source length, without their padding."""
    src_tokens = net_input["src_tokens"][pick]
    src_tokens = src_tokens[src_tokens != pad].view(len(pick), width)
    return {"src_tokens": src_tokens, "src_lengths": net_input["src_lengths"][pick]}


class ArGenerator(_Mended, SequenceGenerator):
    """fairseq's SequenceGenerator."""


class AlignedArGenerator(_Mended, SequenceGeneratorWithAlignment):
    """fairseq's SequenceGeneratorWithAlignment, for --print-alignment."""
