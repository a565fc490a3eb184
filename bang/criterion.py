"""The losses, and which mode an update trains.

Shapes: B batch, T target length, G blocks of K slots, n slots that count, V vocabulary.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import Dict, List

import numpy as np
import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor
from torch.nn import functional as F

from . import visibility
from .network.attention import layout_tensors
from .trained_modes import split_shares

logger = logging.getLogger(__name__)

MAX_NGRAM = 32


@dataclass
class NgramLossConfig(FairseqDataclass):
    label_smoothing: float = field(
        default=0.0, metadata={"help": "epsilon of label smoothing: its share of the target is spread over all pieces"}
    )
    disable_ngram_loss: bool = field(
        default=False, metadata={"help": "count the loss of the first predicting stream alone, plain AR"}
    )
    ngram: int = II("model.ngram")
    sentence_avg: bool = II("optimization.sentence_avg")
    seed: int = II("common.seed")


@dataclass
class MixedLossConfig(NgramLossConfig):
    nar_ratio: float = field(default=0.0, metadata={"help": "share of the updates that train NAR (0: none, 1: all)"})
    semi_nar_ratio: float = field(
        default=0.0, metadata={"help": "share of the updates that train semi-NAR; what both shares leave is AR"}
    )
    block_size: int = field(
        default=visibility.BLOCK_SIZE, metadata={"help": "tokens that semi-NAR predicts at once"}
    )


def draw_mode(shares: Dict[str, float], seed: int, update: int) -> str:
    """The mode of an update: the same on every worker, and after a resume.

    Args:
        shares: share of the updates by mode, adding up to 1.
        seed: --seed.
        update: update number.
    """
    point = np.random.default_rng([seed, update]).random()
    edges = np.cumsum(list(shares.values()))
    return list(shares)[min(np.searchsorted(edges, point, side="right"), len(shares) - 1)]


def smoothed_nll(logits: Tensor, target: Tensor, epsilon: float):
    """Sums of `(1 - eps) * nll + eps / V * sum_v -log p_v` and of nll, in float32.

    Args:
        logits: (n, V). target: (n).
    """
    log_probs = utils.log_softmax(logits, dim=-1)
    nll = F.nll_loss(log_probs, target, reduction="sum")
    if not epsilon:
        return nll, nll
    return (1 - epsilon) * nll - epsilon / logits.size(-1) * log_probs.sum(), nll


@register_criterion("ngram_language_loss", dataclass=NgramLossConfig)
class NgramLanguageLoss(FairseqCriterion):
    """AR loss over the predicting streams of `--ngram`."""

    def __init__(self, task, label_smoothing, disable_ngram_loss, ngram, sentence_avg, seed):
        super().__init__(task)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"--label-smoothing {label_smoothing}: must be at least 0 and below 1")
        if not 1 <= ngram <= MAX_NGRAM:
            raise ValueError(f"--ngram {ngram}: must be between 1 and {MAX_NGRAM}")
        span = getattr(task.cfg, "mask_length", None)
        if span is not None and ngram > span:
            raise ValueError(f"--ngram {ngram} is larger than the span of --mask-length {span}: those streams never count")
        if disable_ngram_loss and ngram > 1:
            logger.warning("--ngram %d has no effect with --disable-ngram-loss: stream 0 alone is trained", ngram)
        self.epsilon = label_smoothing
        self.ngram = 1 if disable_ngram_loss else ngram
        self.sentence_avg = sentence_avg
        self.seed = seed
        self.shares = {"ar": 1.0}

    def forward(self, model, sample, reduce=True):
        """Loss of one batch.

        Training draws one mode by seed and update number; validation measures every mode that
        training uses and weighs them by their shares.

        Returns:
            The summed loss, its sample size, and what to log.
        """
        shares = self.shares
        if model.training:
            shares = {draw_mode(shares, self.seed, model.num_updates): 1.0}
        log = {"ntokens": sample["ntokens"], "nsentences": sample["target"].size(0)}
        totals = {"loss": 0.0, "nll_loss": 0.0}
        for mode, share in shares.items():
            loss, nll, sample_size = self.mode_loss(model, sample, mode)
            log[f"{mode}_loss"], log[f"{mode}_sample_size"] = loss.detach(), sample_size
            # with several modes each is brought to the scale of the target tokens
            weight = share * sample["ntokens"] / sample_size if len(shares) > 1 else share
            totals = {"loss": totals["loss"] + weight * loss, "nll_loss": totals["nll_loss"] + weight * nll.detach()}
        if len(shares) > 1:
            sample_size = sample["ntokens"]
        log.update(loss=totals["loss"].detach(), nll_loss=totals["nll_loss"], sample_size=sample_size)
        return totals["loss"], sample_size, log

    def layout(self, mode: str, length: int) -> visibility.Layout:
        """The slots that a mode trains."""
        assert mode == "ar"
        return visibility.streams(length, self.ngram)

    def mode_loss(self, model, sample, mode: str):
        """Summed loss, summed nll and sample size of a batch in one mode."""
        target = sample["target"]
        layout = self.layout(mode, target.size(1))
        index, _ = layout_tensors(layout, target.device)
        slot_target = _at(target, index, fill=self.padding_idx)
        counts = slot_target.ne(self.padding_idx)
        if mode == "ar" and "target_idx" in sample:
            # stream i counts from index i of a span on: its block hangs on a token of the span
            counts &= _at(sample["target_idx"], index, fill=-1) >= torch.arange(self.ngram, device=target.device)
        select = counts.flatten(1)
        logits, _ = model(**sample["net_input"], layout=layout, select=select)
        loss, nll = smoothed_nll(logits, slot_target.flatten(1)[select], self.epsilon)
        if mode == "ar":
            return loss, nll, int(select.sum())
        return loss, nll, target.size(0) if self.sentence_avg else sample["ntokens"]

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[dict]) -> None:
        """Logs losses in base 2: all, nll and perplexity, and each mode's by name."""

        def total(key):
            return sum(log.get(key, 0) for log in logging_outputs)

        sample_size = total("sample_size")
        metrics.log_scalar("loss", total("loss") / sample_size / math.log(2), sample_size, round=3)
        metrics.log_scalar("nll_loss", total("nll_loss") / sample_size / math.log(2), sample_size, round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))
        for mode in ("ar", "semi-nar", "nar"):
            size = total(f"{mode}_sample_size")
            if size:
                metrics.log_scalar(f"{mode}_loss", total(f"{mode}_loss") / size / math.log(2), size, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


@register_criterion("ngram_language_loss_NAR_mixed", dataclass=MixedLossConfig)
class NgramLanguageLossNarMixed(NgramLanguageLoss):
    """AR, semi-NAR and NAR updates in given shares."""

    def __init__(
        self, task, label_smoothing, disable_ngram_loss, ngram, sentence_avg, seed, nar_ratio, semi_nar_ratio, block_size
    ):
        super().__init__(task, label_smoothing, disable_ngram_loss, ngram, sentence_avg, seed)
        for option, value in (("--nar-ratio", nar_ratio), ("--semi-nar-ratio", semi_nar_ratio)):
            if not 0 <= value <= 1:
                raise ValueError(f"{option} {value}: a share of the updates lies between 0 and 1")
        if nar_ratio + semi_nar_ratio > 1:
            raise ValueError(f"--nar-ratio {nar_ratio} and --semi-nar-ratio {semi_nar_ratio} add up to more than 1")
        if block_size < 1:
            raise ValueError(f"--block-size {block_size}: a block holds at least 1 token")
        self.block_size = block_size
        self.shares = split_shares(nar_ratio, semi_nar_ratio)
        if self.ngram > 1 and "ar" not in self.shares:
            logger.warning("--ngram %d has no effect: no update trains AR (--nar-ratio, --semi-nar-ratio)", ngram)
        if block_size != visibility.BLOCK_SIZE and "semi-nar" not in self.shares:
            logger.warning("--block-size %d has no effect in training without --semi-nar-ratio", block_size)

    def layout(self, mode: str, length: int) -> visibility.Layout:
        if mode == "nar":
            return visibility.non_autoregressive(length)
        if mode == "semi-nar":
            return visibility.semi_autoregressive(length, self.block_size)
        return super().layout(mode, length)


def _at(values: Tensor, index: Tensor, fill: int) -> Tensor:
    """values (B, T) at slots' target indices (G, K): (B, G, K); `fill` past the last target."""
    length = values.size(1)
    taken = values[:, index.clamp(max=length - 1)]
    return taken.masked_fill(index >= length, fill)
