"""AR decoding: fairseq's beam search and sampling, with its bugs fixed."""

import logging
import math
import re

import torch
from fairseq.search import Search
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator, SequenceGeneratorWithAlignment
from torch import Tensor, nn

from ..decoding.limits import check_lengths, length_limits
from ..decoding.ngrams import completing_tokens
from ..errors import NO_NUMBERS, UserError
from ..network.decoder import BangDecoder

logger = logging.getLogger(__name__)


class NgramBlocker(nn.Module):
    """Forbids the tokens that would repeat an n-gram of the hypothesis.

    fairseq's own looks at the end of the padded buffer, so it never blocks anything on a CPU.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.forced: Tensor | None = None  # rows of the next step whose token is given, which may repeat

    def forward(self, tokens: Tensor, lprobs: Tensor, bsz: int, beam_size: int, step: int) -> Tensor:
        """
        Args:
            tokens: hypotheses so far in a padded buffer, the start symbol first, (rows, length).
            lprobs: log-probabilities of the next token, (rows, V).
            step: tokens generated so far.
        Returns:
            lprobs with -inf at the tokens that would repeat an n-gram.
        """
        forced = None if self.forced is None else self.forced.cpu().numpy()
        self.forced = None
        texts = tokens[:, : step + 1].cpu().numpy()
        for row, text in enumerate(texts):
            if forced is None or not forced[row]:
                lprobs[row, torch.from_numpy(completing_tokens(text, self.size)).to(lprobs.device)] = -math.inf
        return lprobs


class BoundedSearch(Search):
    """A search strategy of fairseq's in which each sentence has its own least length and limit.

    Args:
        search: the strategy.
    """

    def __init__(self, search: Search, tgt_dict):
        super().__init__(tgt_dict)
        self.search = search
        self.supports_constraints, self.stop_on_max_len = search.supports_constraints, search.stop_on_max_len

    def bind(self, least: Tensor, limit: Tensor, ids: Tensor, given: Tensor) -> None:
        """Before a batch.

        Args:
            least, limit: tokens before which no eos may come and after which it must, (sentences).
            ids: of the sentences.
            given: whether a sentence's token of a step is given, so that no least length holds there, (sentences, steps).
        """
        self.least, self.limit, self.ids, self.given = least, limit, ids, given

    def step(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        """As fairseq's; `original_batch_idxs` are places in the batch."""
        self.active = original_batch_idxs
        over = self.limit[self.active] <= step
        early = self.least[self.active] > step
        if step < self.given.size(1):
            early &= ~self.given[self.active, step]
        if self.supports_constraints:
            self._release(over.nonzero().flatten().tolist())
        eos = lprobs[:, :, self.eos].masked_fill(early[:, None], -math.inf)
        lprobs.masked_fill_(over[:, None, None], -math.inf)
        lprobs[:, :, self.eos] = eos
        return self.search.step(step, lprobs, scores, prev_output_tokens, self.ids[self.active])

    def _release(self, ending: list) -> None:
        """Lets active sentences end, of which no hypothesis holds all constraints: the search would forbid their eos."""
        for row in ending:
            states = self.search.constraint_states[row]
            if not any(state.finished for state in states):
                none = type(states[0]).create(torch.zeros(1, dtype=torch.long))
                self.search.constraint_states[row] = [none] * len(states)
                sentence = self.active[row]
                logger.warning(
                    "--constraints: the text of sentence %d ends without all of its own, at its limit of %d tokens; raise "
                    "--max-len-b or --max-len-a", self.ids[sentence], self.limit[sentence],
                )  # fmt: skip

    def at_limit(self, sentence: int, step: int) -> bool:
        """Whether an active sentence must end at this step."""
        return step >= int(self.limit[self.active[sentence]])

    def init_constraints(self, batch_constraints, beam_size):
        self.search.init_constraints(batch_constraints, beam_size)

    def prune_sentences(self, batch_idxs):
        self.search.prune_sentences(batch_idxs)

    def update_constraints(self, active_hypos):
        self.search.update_constraints(active_hypos)

    def set_src_lengths(self, src_lengths):
        self.search.set_src_lengths(src_lengths)


class BeamsOfOneSource(EnsembleModel):
    """fairseq's ensemble; BANG's decoders keep keys and values of a source, so its encoding stays as it is."""

    def reorder_encoder_out(self, encoder_outs, new_order):
        return [
            out if isinstance(model.decoder, BangDecoder) else model.encoder.reorder_encoder_out(out, new_order)
            for model, out in zip(self.models, encoder_outs)
        ]


class _Mended(SequenceGenerator):
    """fairseq's generators, in which n-grams are blocked and a sentence is decoded as if alone."""

    search: Search
    min_len: int
    max_len_a: float
    max_len_b: int

    def __init__(self, *args, no_repeat_ngram_size: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.match_source_len:
            check_lengths(self.max_len_a, self.max_len_b, self.min_len)
        self.search = BoundedSearch(self.search, self.tgt_dict)
        if no_repeat_ngram_size > 0:
            self.repeat_ngram_blocker = NgramBlocker(no_repeat_ngram_size)

    @torch.no_grad()
    def generate(self, models, sample, prefix_tokens=None, constraints=None, **kwargs):
        """As fairseq's, but --max-len-a counts a sentence's own length, not the padded batch's."""
        for model in self.model.models:
            if hasattr(model, "set_beam_size"):  # fairseq's own
                model.set_beam_size(self.beam_size)
        src_tokens, src_lengths = (sample["net_input"][name] for name in ("src_tokens", "src_lengths"))
        device, place = src_tokens.device, torch.arange(len(src_tokens), device=src_tokens.device)
        limits = length_limits(src_lengths.cpu().numpy(), self.max_len_a, self.max_len_b, self.max_len - 1)
        if self.match_source_len:
            limits[:] = int(src_lengths.max())
        limit = torch.from_numpy(limits).to(device)
        given = torch.zeros(len(limits), 0, dtype=torch.bool, device=device)
        if prefix_tokens is not None:  # it ends at the limit
            beyond = torch.arange(prefix_tokens.size(1), device=device) >= limit[:, None]
            prefix_tokens = prefix_tokens.masked_fill(beyond, self.pad)
            given = prefix_tokens != self.pad
        ids = sample["id"].to(device) if isinstance(sample.get("id"), Tensor) else place
        if self.search.supports_constraints and constraints is None:
            raise UserError(
                "--constraints: there are none; fairseq-interactive reads them behind a tab in each line, fairseq-generate does "
                "not: leave the option out"
            )
        self.search.bind(limit.clamp(max=self.min_len), limit, ids, given)
        lengths = self.min_len, self.max_len_a, self.max_len_b
        # BoundedSearch applies each sentence's own lengths; fairseq gets the longest
        self.min_len, self.max_len_a, self.max_len_b = 0, 0, int(limits.max())
        try:
            return super().generate(
                models, dict(sample, id=place), prefix_tokens=prefix_tokens, constraints=constraints, **kwargs
            )
        except AssertionError as error:
            if not re.fullmatch(r"\d+ < \d+", str(error)):  # a sentence is at its limit, and has no hypothesis
                raise
            raise UserError(f"the model {NO_NUMBERS}") from error
        finally:
            self.min_len, self.max_len_a, self.max_len_b = lengths

    def _prefix_tokens(self, step, lprobs, scores, tokens, prefix_tokens, beam_size):
        """As fairseq's; n-gram blocking, which comes after it, leaves a given token alone."""
        if isinstance(self.repeat_ngram_blocker, NgramBlocker):
            self.repeat_ngram_blocker.forced = prefix_tokens[:, step].ne(self.pad).repeat_interleave(beam_size)
        return super()._prefix_tokens(step, lprobs, scores, tokens, prefix_tokens, beam_size)

    def is_finished(self, step, unfin_idx, max_len, finalized_sent_len, beam_size):
        return super().is_finished(step, unfin_idx, max_len, finalized_sent_len, beam_size) or self.search.at_limit(
            unfin_idx, step
        )


class ArGenerator(_Mended):
    """fairseq's SequenceGenerator."""

    def __init__(self, models, *args, **kwargs):
        super().__init__(BeamsOfOneSource(models), *args, **kwargs)


class AlignedArGenerator(_Mended, SequenceGeneratorWithAlignment):
    """fairseq's SequenceGeneratorWithAlignment, for --print-alignment."""
