"""The losses, and which mode an update trains.

Shapes: B batch, T target length, G blocks of K slots, n slots that count, V vocabulary.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor

from .. import modes, visibility
from ..errors import UserError
from ..network.attention import layout_tensors
from ..options import Options, describe
from ..trained_modes import split_shares
from . import self_distillation
from .loss import linear_nll

logger = logging.getLogger(__name__)

MAX_NGRAM = 32


@dataclass
class NgramLossConfig(FairseqDataclass):
    label_smoothing: float = field(default=0.0, metadata={"help": "share of each target that is spread over all word pieces"})
    disable_ngram_loss: bool = field(default=False, metadata={"help": "train the first predicting stream only, plain AR"})
    stream_decay: float = field(
        default=1.0, metadata={"help": "with --ngram: weight of predicting stream i in the loss is this to the power of i"}
    )
    ngram: int = II("model.ngram")
    sentence_avg: bool = II("optimization.sentence_avg")
    seed: int = II("common.seed")


@dataclass
class MixedLossConfig(NgramLossConfig):
    nar_ratio: float = field(default=0.0, metadata={"help": "share of the updates that train NAR (0: none, 1: all)"})
    semi_nar_ratio: float = field(
        default=0.0, metadata={"help": "share of the updates that train semi-NAR; AR has the rest after both shares"}
    )
    block_size: int = describe("block_size")
    random_block_offset: bool = field(
        default=False,
        metadata={
            "help": "half of the semi-NAR updates begin their blocks at a random token, as --decoding speculative and "
            "--commit-threshold need; cheaper than --ngram"
        },
    )
    joint_modes: bool = field(
        default=False,
        metadata={
            "help": "every update trains every mode, weighted by its share, on one encoder pass; otherwise each trains one"
        },
    )
    own_texts: int = field(
        default=0,
        metadata={
            "help": "half of the loss is on targets that the model itself writes in AR for the batch: of this many samples the "
            "one closest to the reference (1: the most probable text; 0: references only)"
        },
    )


def draw_mode(shares: dict[str, float], seed: int, update: int) -> str:
    """The mode of an update: the same on every worker, and after a resume.

    Args:
        shares: share of the updates by mode, adding up to 1.
        seed: --seed.
        update: update number.
    """
    point = np.random.default_rng([seed, update]).random()
    edges = np.cumsum(list(shares.values()))
    return list(shares)[min(int(np.searchsorted(edges, point, side="right")), len(shares) - 1)]


class Part(NamedTuple):
    """A part of an update's loss.

    Attributes:
        mode: that it trains.
        share: of the loss.
        batch: sources and targets.
        own: the targets are those that the model wrote itself.
    """

    mode: str
    share: float
    batch: dict
    own: bool = False

    @property
    def name(self) -> str:
        """As it is logged."""
        return f"{self.mode}_own" if self.own else self.mode


class Slots(NamedTuple):
    """The slots of a batch whose loss counts in one mode.

    Attributes:
        layout: all slots of the mode.
        where: those that count, in the flattened (B, G*K), (n).
        target: what they have to predict, (n).
        weight: of each in the loss, (n).
        size: sum of the weights, known on the host.
    """

    layout: visibility.Layout
    where: Tensor
    target: Tensor
    weight: Tensor
    size: float


@register_criterion("ngram_language_loss", dataclass=NgramLossConfig)
class NgramLanguageLoss(FairseqCriterion):
    """AR loss over the predicting streams of `--ngram`."""

    def __init__(self, task, label_smoothing, disable_ngram_loss, stream_decay, ngram, sentence_avg, seed):
        super().__init__(task)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"--label-smoothing {label_smoothing}: must be at least 0 and below 1")
        if not 1 <= ngram <= MAX_NGRAM:
            raise UserError(f"--ngram {ngram}: must be between 1 and {MAX_NGRAM}")
        if not 0 < stream_decay <= 1:
            raise UserError(f"--stream-decay {stream_decay}: must be above 0 and at most 1")
        span = getattr(task.cfg, "mask_length", None)
        if span is not None and ngram > span:
            raise UserError(f"--ngram {ngram} is larger than the span of --mask-length {span}: those streams never count")
        if disable_ngram_loss and ngram > 1:
            logger.warning("--ngram %d has no effect with --disable-ngram-loss: stream 0 alone is trained", ngram)
        self.epsilon = label_smoothing
        self.ngram = 1 if disable_ngram_loss else ngram
        self.stream_decay = stream_decay
        self.sentence_avg = sentence_avg
        self.seed = seed
        self.shares = {modes.AR: 1.0}
        self.joint = False

    def forward(self, model, sample, reduce=True):
        """Loss of one batch.

        Training draws one mode by seed and update number, or with --joint-modes takes all; validation
        measures every mode that training uses, against the references alone. Several modes are weighted by their
        shares, each loss per target first; they share one pass of the encoder.

        Returns:
            The summed loss, its sample size, and what to log.
        """
        shares = self.shares
        if model.training and not self.joint:
            shares = {draw_mode(shares, self.seed, model.num_updates): 1.0}
        start = self._block_offset(model.num_updates) if model.training else 0
        own = self._own_texts(model, sample) if model.training else None
        parts = [Part(mode, share, sample) for mode, share in shares.items()]
        if own is not None:
            parts = [part._replace(share=part.share / 2) for part in parts]
            parts += [part._replace(batch=own, own=True) for part in parts]
        slots = [self.slots(part.mode, part.batch, start) for part in parts]
        main_tokens = [part.batch["net_input"]["prev_output_tokens"] for part in parts]
        net_input = {**sample["net_input"], "prev_output_tokens": main_tokens}
        features = model(**net_input, layout=[s.layout for s in slots], select=[s.where for s in slots])
        if len(parts) > 1:
            scales = [part.share * sample["ntokens"] / s.size for part, s in zip(parts, slots)]
            sample_size = nll_tokens = sample["ntokens"]
        else:
            scales, nll_tokens = [1.0], slots[0].size
            per_sentence = self.sentence_avg and not _has_streams(parts[0].mode)
            sample_size = sample["target"].size(0) if per_sentence else nll_tokens
        weight = torch.cat([scale * s.weight for scale, s in zip(scales, slots)])
        target = torch.cat([s.target for s in slots])
        loss, losses, nll = linear_nll(torch.cat(features), model.decoder.output_weight, target, weight, self.epsilon)
        log = {
            "loss": loss.detach(),
            "nll_loss": (nll * weight).sum(),
            "nll_tokens": nll_tokens,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        for part, s, of_part in zip(parts, slots, losses.split([len(s.where) for s in slots])):
            log[f"{part.name}_loss"], log[f"{part.name}_sample_size"] = (of_part * s.weight).sum(), s.size
        return loss, sample_size, log

    def _own_texts(self, model, sample: dict) -> dict | None:
        """A batch of targets that the model writes itself, to be learnt beside the references; None: there are none."""
        return None

    def layout(self, mode: str, length: int, start: int) -> visibility.Layout:
        """The slots that a mode trains; semi-NAR's blocks begin at target `start`."""
        assert _has_streams(mode)
        return visibility.streams(length, self.ngram)

    def _block_offset(self, update: int) -> int:
        return 0

    def slots(self, mode: str, sample: dict, start: int) -> Slots:
        """The slots of a batch that count in one mode."""
        target = sample["target"]
        start = min(start, target.size(1) - 1)
        layout = self.layout(mode, target.size(1), start)
        slot_target, _ = layout_tensors(layout, target.device)
        expected = _at(target, slot_target, fill=self.padding_idx)  # (B, G, K)
        counts = expected.ne(self.padding_idx)
        streams = _has_streams(mode)
        if streams and "target_idx" in sample:
            # stream i counts from index i of a span on: its block hangs on a token of the span
            counts &= _at(sample["target_idx"], slot_target, fill=-1) >= torch.arange(self.ngram, device=target.device)
        # how many there are follows from how many targets stand at each index of their span
        at_least = sample["targets_from"] + [0] * MAX_NGRAM
        numbers = at_least[: self.ngram] if streams else [at_least[max(layout.first_anchor, 0)]]
        weights = [self.stream_decay**i for i in range(len(numbers))]
        # the slots that count come first; their number is known on the host: no host sync
        index = counts.flatten().logical_not().int().argsort(stable=True)[: sum(numbers)]
        weight = torch.ones(len(index), device=target.device)
        if self.stream_decay != 1 and streams:
            weight = self.stream_decay ** (index % self.ngram).float()
        size = sum(number * w for number, w in zip(numbers, weights))
        return Slots(layout, index, expected.flatten()[index], weight, size)

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict]) -> None:
        """Logs losses in base 2: all, nll and perplexity, and each mode's by name."""

        def total(key):
            return sum(log.get(key, 0) for log in logging_outputs)

        sample_size, nll_tokens = total("sample_size"), total("nll_tokens")
        metrics.log_scalar("loss", total("loss") / sample_size / math.log(2), sample_size, round=3)
        metrics.log_scalar("nll_loss", total("nll_loss") / nll_tokens / math.log(2), nll_tokens, round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))
        for mode in modes.trained():
            for part in (mode, f"{mode}_own"):
                size = total(f"{part}_sample_size")
                if size:
                    metrics.log_scalar(f"{part}_loss", total(f"{part}_loss") / size / math.log(2), size, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


@register_criterion("ngram_language_loss_NAR_mixed", dataclass=MixedLossConfig)
class NgramLanguageLossNarMixed(NgramLanguageLoss):
    """AR, semi-NAR and NAR in given shares."""

    def __init__(
        self,
        task,
        label_smoothing,
        disable_ngram_loss,
        stream_decay,
        ngram,
        sentence_avg,
        seed,
        nar_ratio,
        semi_nar_ratio,
        block_size,
        random_block_offset,
        joint_modes,
        own_texts,
    ):
        super().__init__(task, label_smoothing, disable_ngram_loss, stream_decay, ngram, sentence_avg, seed)
        for option, value in (("--nar-ratio", nar_ratio), ("--semi-nar-ratio", semi_nar_ratio)):
            if not 0 <= value <= 1:
                raise UserError(f"{option} {value}: a share of the updates lies between 0 and 1")
        if nar_ratio + semi_nar_ratio > 1:
            raise UserError(f"--nar-ratio {nar_ratio} and --semi-nar-ratio {semi_nar_ratio} add up to more than 1")
        if block_size < 1:
            raise UserError(f"--block-size {block_size}: a block holds at least 1 token")
        self.block_size = block_size
        self.shares = split_shares({"nar_ratio": nar_ratio, "semi_nar_ratio": semi_nar_ratio})
        trains_blocks = any("block_size" in modes.find(mode).options for mode in self.shares)
        if self.ngram > 1 and not any(map(_has_streams, self.shares)):
            logger.warning("--ngram %d has no effect: no update trains AR (--nar-ratio, --semi-nar-ratio)", ngram)
        if block_size != visibility.BLOCK_SIZE and not trains_blocks:
            logger.warning("--block-size %d has no effect in training without --semi-nar-ratio", block_size)

        self.random_block_offset, self.joint = random_block_offset, joint_modes
        if random_block_offset and getattr(task.cfg, "mask_length", None) is not None:
            raise UserError("--random-block-offset is for pairs: in pretraining --ngram hangs blocks on every token")
        if random_block_offset and not trains_blocks:
            logger.warning("--random-block-offset has no effect without --semi-nar-ratio")
        if joint_modes and len(self.shares) == 1:
            logger.warning("--joint-modes has no effect: all updates train %s", *self.shares)
        if own_texts < 0:
            raise UserError(f"--own-texts {own_texts}: draw one text or more of each source (0: none)")
        if own_texts and modes.AR not in self.shares:
            raise UserError("--own-texts: the model writes in AR, so train AR too (--nar-ratio, --semi-nar-ratio)")
        if own_texts and getattr(task.cfg, "mask_length", None) is not None:
            raise UserError("--own-texts is for pairs: pretraining has no sources to write for")
        self.own_texts = own_texts

    def layout(self, mode: str, length: int, start: int) -> visibility.Layout:
        if _has_streams(mode):
            return super().layout(mode, length, start)
        return modes.find(mode).layout(length, Options(block_size=self.block_size), start)

    def _own_texts(self, model, sample: dict) -> dict | None:
        if not self.own_texts:
            return None
        seed = int(np.random.default_rng([self.seed, model.num_updates, 2]).integers(1 << 31))
        return self_distillation.write(model, sample, self.own_texts, seed, self.task.target_dictionary)

    def _block_offset(self, update: int) -> int:
        """Where the semi-NAR blocks of an update begin."""
        if not self.random_block_offset:
            return 0
        random = np.random.default_rng([self.seed, update, 1])  # apart from the draw of the mode
        return int(random.integers(self.block_size)) if random.random() < 0.5 else 0


def _has_streams(mode: str) -> bool:
    """Whether a mode's updates have the predicting streams of --ngram."""
    return modes.find(mode).streams_train is not None


def _at(values: Tensor, index: Tensor, fill: int) -> Tensor:
    """values (B, T) at slots' target indices (G, K): (B, G, K); `fill` past the last target."""
    length = values.size(1)
    taken = values[:, index.clamp(max=length - 1)]
    return taken.masked_fill(index >= length, fill)
