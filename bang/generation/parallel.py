"""NAR and semi-NAR decoding: arg-max over blocks of slots.

Shapes: B sentences, K slots of a step, V vocabulary.
"""

import math
from typing import List, Optional

import torch
from fairseq import utils
from torch import Tensor

from .. import visibility

NAR_PIECE = 32
"""Slots of a NAR canvas that are decoded at once: later slots wait until some sentence needs them."""


class ParallelGenerator:
    """Decodes slots in parallel, block by block, and keeps the most probable token of each.

    One loop serves both modes, for a canvas cut into pieces and blocks committed to the main
    stream differ only in what the next slots see:

    * NAR (`block_size` None): the slots see all slots before them and no token. The canvas is
      decoded in cached pieces and decoding stops once every sentence has ended; as a slot never
      sees later ones, the text is that of one pass over the whole canvas.
    * semi-NAR: each block sees the committed tokens; K = 1 is greedy AR.

    A text ends before the first eos that follows another token, or at its limit of tokens:
    `max_len_a` times its own source length plus `max_len_b`, at most `max_len`. Sentences that
    have ended leave the batch.

    Args:
        models: ensemble; probabilities are averaged.
        tgt_dict: target dictionary.
        block_size: K of semi-NAR, None for NAR.
        max_len_a, max_len_b: limit on the tokens of a text, eos not counted.
        max_len: limit whatever the source, 0: the model's.
        min_len: no eos before so many tokens; NAR's cut alone sees to the default of 1.
        unk_penalty: taken off the log-probability of unk.
        normalize_scores, len_penalty: score is the sum of log-probabilities, eos included, over
            length ** len_penalty.
        temperature: divides the logits.
    """

    def __init__(
        self,
        models,
        tgt_dict,
        block_size: Optional[int] = None,
        max_len_a: float = 0,
        max_len_b: int = 200,
        max_len: int = 0,
        min_len: int = 1,
        unk_penalty: float = 0.0,
        normalize_scores: bool = True,
        len_penalty: float = 1.0,
        temperature: float = 1.0,
    ):
        if block_size is not None and block_size < 1:
            raise ValueError(f"--block-size {block_size}: a block holds at least 1 token")
        longest = min(max_len_b, max_len or max_len_b)
        if not max_len_a and min_len > longest:
            raise ValueError(
                f"--min-len {min_len} is larger than the longest text allowed, {longest} tokens "
                "(--max-len-b, --max-nar-length)"
            )
        if temperature <= 0:
            raise ValueError(f"--temperature {temperature}: must be above 0")
        self.models = models
        self.pad, self.unk, self.eos = tgt_dict.pad(), tgt_dict.unk(), tgt_dict.eos()
        self.symbols_to_strip_from_output = {self.eos}
        self.block_size = block_size
        self.max_len_a, self.max_len_b = max_len_a, max_len_b
        # a NAR canvas may begin with eos, which the cut passes over: one token stands there anyway
        self.min_len = 0 if block_size is None and min_len == 1 else min_len
        # positions of slots run to max_decoder_positions + 1, so the final eos needs no spare one
        self.max_len = min([model.max_decoder_positions() - 1 for model in models] + ([max_len] if max_len else []))
        self.unk_penalty = unk_penalty
        self.normalize_scores, self.len_penalty = normalize_scores, len_penalty
        self.temperature = temperature
        for model in models:
            model.eval()

    @torch.no_grad()
    def generate(self, models, sample, prefix_tokens=None, constraints=None, **unused) -> List[List[dict]]:
        """One hypothesis for each sentence of the batch, as fairseq's generators return them."""
        net_input = sample["net_input"]
        src_tokens, src_lengths = net_input["src_tokens"], net_input["src_lengths"]
        limit = (self.max_len_a * src_lengths + self.max_len_b).long().clamp(max=self.max_len)  # (B)
        for model in self.models:
            model.set_beam_size(1)
        encoder_outs = [model.encoder(src_tokens, src_lengths=src_lengths) for model in self.models]
        states = [{} for _ in self.models]
        batch = len(src_tokens)
        active = torch.arange(batch, device=src_tokens.device)  # rows that have not ended
        tokens = src_tokens.new_full((batch, 1), self.eos)  # start symbol, then what has been decoded
        scores = torch.zeros((batch, 0), device=src_tokens.device)
        hypotheses = [None] * batch
        while len(active):
            start = tokens.size(1) - 1
            size = min(self.block_size or NAR_PIECE, int(limit.max()) + 1 - start)
            lprobs = self._next(tokens, encoder_outs, states, start, size)
            new_scores, new_tokens = self._constrain(lprobs, limit, start).max(dim=-1)
            tokens, scores = torch.cat([tokens, new_tokens], 1), torch.cat([scores, new_scores], 1)

            length = self._lengths(tokens[:, 1:], limit)
            done = length > 0
            for row in done.nonzero().flatten().tolist():
                hypotheses[int(active[row])] = [self._hypothesis(tokens[row, 1:], scores[row], int(length[row]))]
            if done.any():
                keep = (~done).nonzero().flatten()
                active, tokens, scores, limit = active[keep], tokens[keep], scores[keep], limit[keep]
                for index, model in enumerate(self.models):
                    encoder_outs[index] = model.encoder.reorder_encoder_out(encoder_outs[index], keep)
                    model.decoder.reorder_incremental_state_scripting(states[index], keep)
        return hypotheses

    def _next(self, tokens: Tensor, encoder_outs, states, start: int, size: int) -> Tensor:
        """Log-probabilities of the next `size` slots, averaged over the models, (B, K, V)."""
        if self.block_size is None:
            layout = visibility.non_autoregressive(size)
        else:
            layout = visibility.next_block(start + 1, size)
        lprobs = []
        for model, encoder_out, state in zip(self.models, encoder_outs, states):
            logits, extra = model.decoder(tokens, encoder_out, incremental_state=state, layout=layout)
            lprobs.append(model.get_normalized_probs((logits / self.temperature, extra), log_probs=True))
        if len(lprobs) == 1:
            return lprobs[0]
        return torch.logsumexp(torch.stack(lprobs), dim=0) - math.log(len(lprobs))

    def _constrain(self, lprobs: Tensor, limit: Tensor, start: int) -> Tensor:
        """Applies what may not be chosen to (B, K, V), in place: pads, eos too early, all but eos at the limit."""
        index = torch.arange(start, start + lprobs.size(1), device=lprobs.device)
        lprobs[:, :, self.pad] = -math.inf
        lprobs[:, :, self.unk] -= self.unk_penalty
        too_early = index < limit[:, None].clamp(max=self.min_len)  # (B, K); a limit wins over --min-len
        lprobs[:, :, self.eos].masked_fill_(too_early, -math.inf)
        at_limit = index >= limit[:, None]
        eos = lprobs[:, :, self.eos].clone()
        lprobs.masked_fill_(at_limit[:, :, None], -math.inf)
        lprobs[:, :, self.eos] = eos
        return lprobs

    def _lengths(self, tokens: Tensor, limit: Tensor) -> Tensor:
        """Length of each text, its eos included, 0 where it goes on, (B)."""
        is_eos = tokens.eq(self.eos)
        ends = is_eos & (is_eos.logical_not().cumsum(1) > 0)  # an eos after some other token
        ends |= torch.arange(tokens.size(1), device=tokens.device) >= limit[:, None]
        return torch.where(ends.any(1), ends.int().argmax(1) + 1, 0)

    def _hypothesis(self, tokens: Tensor, scores: Tensor, length: int) -> dict:
        tokens, scores = tokens[:length], scores[:length].clone()
        score = scores.sum()
        if self.normalize_scores:
            score = score / length**self.len_penalty
        return {
            "tokens": tokens.clone(),
            "score": score,
            "attention": None,
            "alignment": torch.empty(0),
            "positional_scores": scores,
        }
