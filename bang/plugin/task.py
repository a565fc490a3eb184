"""The tasks translation_bang and translation_bang_nar: data in, generator out."""

import filecmp
import json
import logging
import os
import weakref
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from fairseq import utils
from fairseq.data import data_utils
from fairseq.dataclass.configs import GenerationConfig
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import II

from .. import modes
from ..decoding.choice import Chooser
from ..decoding.link import NO_LINK, Link
from ..errors import UserError
from ..generation.beam_search import AlignedArGenerator, ArGenerator
from ..generation.generator import LoopGenerator
from ..generation.statistics import Statistics
from ..modes import AR, MODES, NAR, WITHOUT_THRESHOLD, Mode, options_without_effect
from ..options import DESCRIBED, Options, describe
from ..trained_modes import slots_ahead, warnings_of
from . import raw_text, training_run
from .base_task import BangTask, BangTaskConfig
from .data import PairDataset, check_binarized

logger = logging.getLogger(__name__)

DECODING_HELP = (
    f"the mode to generate in: {', '.join(MODES)}. --beam acts in ar only; speculative gives the text of --beam 1 (fairseq's "
    "default of 5 counts as 1 there)"
)
NO_EFFECT_IN_LOOP = (
    "nbest diverse_beam_groups diversity_rate match_source_len constraints print_alignment replace_unk lm_path"
).split()
"""fairseq's generation options that need several hypotheses, or look into its beam search."""

OF_MODES = ("block_size", "commit_threshold", "draft_length", "draft_from_source", "eos_penalty", "rescore")
"""The task's options that `Options` describes."""
UNKNOWN_SAMPLE = 1000  # first texts of a split, checked for raw text that was binarized


@dataclass
class BangTranslationConfig(TranslationConfig, BangTaskConfig):
    decoding: str = field(default=AR, metadata={"help": DECODING_HELP})
    block_size: int = describe("block_size")
    commit_threshold: float = describe("commit_threshold")
    rescore: int = describe("rescore")
    link: Optional[str] = field(
        default=None,
        metadata={
            "help": "a file of bang link, or none (the default): NAR, and semi-NAR without a threshold, write the best path "
            "through their slots' likeliest tokens"
        },
    )
    upsample_primary: int = field(
        default=1, metadata={"help": "how often an epoch repeats `train` when `train1` and others are beside it"}
    )
    length_bucket: int = field(
        default=1,
        metadata={
            "help": "batch training sources by buckets of this many tokens, and by target length within them: much less padding "
            "of targets (1: by source length first, as fairseq)"
        },
    )
    draft_length: int = describe("draft_length")
    draft_from_source: float = describe("draft_from_source")
    eos_penalty: float = describe("eos_penalty")
    max_nar_length: int = field(
        default=0,
        metadata={"help": "limit on the tokens of a text without beam search, besides --max-len-a/b (0: none)"},
    )
    log_format: Optional[str] = II("common.log_format")


@dataclass
class BangTranslationNarConfig(BangTranslationConfig):
    decoding: str = field(default=NAR, metadata={"help": f"the mode to generate in: {', '.join(MODES)}"})


@register_task("translation_bang", dataclass=BangTranslationConfig)
class BangTranslationTask(BangTask, TranslationTask):
    """Source to target text in word pieces; decodes AR unless --decoding says otherwise."""

    def __init__(self, cfg: BangTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        if cfg.left_pad_target:
            raise UserError("--left-pad-target True is not supported: slots count from the first target")
        if cfg.upsample_primary < 0:  # fairseq 0.12's default, also in checkpoints: no dataset is so long
            cfg.upsample_primary = 1
        if cfg.length_bucket < 1:
            raise UserError(f"--length-bucket {cfg.length_bucket}: a bucket holds at least 1 length")
        self.link = None if cfg.link in (NO_LINK, None) else Link.load(cfg.link, tgt_dict.symbols)

    @classmethod
    def setup_task(cls, cfg: BangTranslationConfig, **kwargs):
        """Loads the dictionaries of --data, which must agree on the special pieces, and be the same in every folder."""
        cls.check_checkpoints(cfg, **kwargs)
        folder = utils.split_paths(cfg.data)[0]
        if None in (cfg.source_lang, cfg.target_lang) and None in data_utils.infer_language_pair(folder):
            raise UserError(
                f"{folder}: holds no binarized pairs, such as train.src-tgt.src.idx: give the folder that fairseq-preprocess or "
                "bang binarize wrote; where there are only dictionaries, give --source-lang and --target-lang"
            )
        try:
            task = super().setup_task(cfg)
            _check_dictionaries(cfg)
            return task
        except AssertionError:
            raise UserError(
                f"{cfg.data}: the source and target dictionaries disagree on the ids of [PAD], [UNK] or [SEP]; "
                "run fairseq-preprocess again with vocab.txt as --srcdict and --tgtdict"
            ) from None

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Loads a split; source and target must have the same number of lines."""
        if self.cfg.num_batch_buckets and int(np.__version__.partition(".")[0]) >= 2:
            raise UserError(
                f"--num-batch-buckets {self.cfg.num_batch_buckets}: fairseq's buckets do not run with numpy 2 (here "
                f"{np.__version__}); leave it out: --length-bucket batches pairs of like lengths"
            )
        folders = utils.split_paths(self.cfg.data)
        pair = f"{self.cfg.source_lang}-{self.cfg.target_lang}"
        for index in sorted(Path(folders[(epoch - 1) % len(folders)]).glob(f"{split}*.{pair}.*.idx")):
            check_binarized(str(index.with_suffix("")))
        try:
            super().load_dataset(split, epoch, combine, **kwargs)
        except AssertionError as error:
            raise UserError(f"{self.cfg.data}, split {self._count_pairs(split, epoch)} ({error})") from None
        self.datasets[split] = PairDataset.of(self.datasets[split])
        self.datasets[split].length_bucket = self.cfg.length_bucket
        self.datasets[split].where = f"{self.cfg.data}, split {split}: "
        for side, texts, dictionary in (
            (self.cfg.source_lang, self.datasets[split].src, self.source_dictionary),
            (self.cfg.target_lang, self.datasets[split].tgt, self.target_dictionary),
        ):
            if texts is not None:
                first = [texts[index] for index in range(min(len(texts), UNKNOWN_SAMPLE))]
                raw_text.warn_of_unknown(*_unknown(first, dictionary), f"{self.cfg.data}, split {split}.{side}")

    def _count_pairs(self, split: str, epoch: int) -> str:
        """The first part of a split whose sides differ, `train` or `train1` …, and how many lines they have."""
        paths = utils.split_paths(self.cfg.data)
        src, tgt = self.cfg.source_lang, self.cfg.target_lang
        number = 0
        while True:
            part = f"{split}{number or ''}"
            prefix = os.path.join(paths[(epoch - 1) % len(paths)], f"{part}.{src}-{tgt}.")
            sizes = [
                len(data_utils.load_indexed_dataset(prefix + side, None, self.cfg.dataset_impl) or ()) for side in (src, tgt)
            ]
            if sizes[0] != sizes[1] or not any(sizes):
                return f"{part}: {sizes[0]} source and {sizes[1]} target lines; binarize texts that run line by line in parallel"
            number += 1

    def build_model(self, cfg, from_checkpoint: bool = False):
        """As fairseq's; --bpe bang gives --eval-bleu text for people too."""
        for name in ("eval_bleu_args", "eval_bleu_detok_args"):
            _check_object(getattr(self.cfg, name), f"--{name.replace('_', '-')}")
        model = super().build_model(cfg, from_checkpoint)
        run = training_run.run_config(cfg)
        is_ours = run is not None and getattr(run.get("bpe"), "_name", run.get("bpe")) == "bang"
        if is_ours and self.cfg.eval_bleu and self.cfg.eval_bleu_detok == "space":
            self.tokenizer = raw_text.BangDetokenizer()
        return model

    def build_bpe(self, args):
        """As fairseq's; --bpe bang splits into the pieces that the source dictionary has."""
        bpe = super().build_bpe(args)
        if isinstance(bpe, raw_text.BangBpe) and not bpe.has_own_vocabulary:
            bpe.use(self.source_dictionary.symbols, self.source_dictionary.normalization)
        return bpe

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """As fairseq's; the text for a blank source is blank."""
        found = super().inference_step(generator, models, sample, prefix_tokens=prefix_tokens, constraints=constraints)
        if not isinstance(generator, SequenceScorer):
            for row, length in enumerate(sample["net_input"]["src_lengths"].tolist()):
                if length <= 1:  # its eos
                    found[row] = [self._blank()]
        return found

    def _blank(self) -> dict:
        """The hypothesis for a blank source, as generators return it."""
        return {
            "tokens": torch.tensor([self.target_dictionary.eos()]),
            "score": torch.tensor(0.0),
            "attention": None,
            "alignment": torch.empty(0),
            "positional_scores": torch.zeros(1),
        }

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None):
        """The sentences of fairseq-interactive and its hub interface, cut by --truncate-source as files are."""
        raw_text.warn_of_unknown(*_unknown(src_tokens, self.source_dictionary), "the input")
        self.source_dictionary.encoded.clear()  # warned already
        if self.cfg.truncate_source:
            limit = self.cfg.max_source_positions
            src_tokens = [
                tokens if len(tokens) <= limit else torch.cat([tokens[: limit - 1], tokens[-1:]]) for tokens in src_tokens
            ]
            src_lengths = [len(tokens) for tokens in src_tokens]
        data = PairDataset(
            src_tokens, src_lengths, self.source_dictionary, tgt_dict=self.target_dictionary, constraints=constraints
        )
        data.typed = bool(self.cfg.checkpoint_paths)  # not from fairseq's hub interface, which counts the answers
        return data

    def build_generator(self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None, prefix_allowed_tokens_fn=None):
        """The generator that --decoding names, with the contract of fairseq's SequenceGenerator.

        `args` may name another decoding and its options, as those of the hub interface's `translate` and of
        --eval-bleu-args can.
        """
        mode, options = self._mode(args)
        beam = getattr(args, "beam", 1)
        if mode.verified and not mode.beam_search and beam not in (1, GenerationConfig().beam):
            raise UserError(
                f"--beam {beam} with --decoding {mode.name}: it gives the words of --beam 1, and --decoding ar those of "
                "a beam search"
            )
        if self.cfg.link not in (NO_LINK, None) and "link" in mode.options and not mode.may_link(options):
            raise UserError(f"--link with --decoding {mode.name}: it chooses whole blocks; {WITHOUT_THRESHOLD}")
        self._check_models(mode, options, models)
        self._warn_no_effect(mode, options, args)
        if getattr(args, "score_reference", False):
            return ReferenceScorer(
                self.target_dictionary, lambda length: mode.layout(length, options, 0), bool(args.print_alignment)
            )
        if mode.beam_search:
            if seq_gen_cls is None:
                seq_gen_cls = AlignedArGenerator if getattr(args, "print_alignment", None) else ArGenerator
                if seq_gen_cls is AlignedArGenerator:
                    extra_gen_cls_kwargs = {**(extra_gen_cls_kwargs or {}), "print_alignment": args.print_alignment}
            return super().build_generator(models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn)
        return self.loop_generator(models, mode, options, args)

    def _mode(self, args) -> tuple[Mode, Options]:
        """The mode of decoding and its options; those of `args` win over the task's."""
        given = {name: getattr(args, name, None) for name in ("decoding", *OF_MODES)}
        of_task = {name: getattr(self.cfg, name) for name in given}
        found = {name: of_task[name] if value is None else value for name, value in given.items()}
        mode = modes.find(str(found.pop("decoding")))
        if "draft_from_source" in mode.options and self.source_dictionary != self.target_dictionary:
            found["draft_from_source"] = 0.0  # No copying when the dictionaries differ.
        return mode, Options(mode=mode.name, **found)

    def _check_models(self, mode: Mode, options: Options, models) -> None:
        """Refuses a mode that the models do not run; warns where they were not trained for it, or for such blocks."""
        chooses = "rescore" in mode.options and self.link is not None
        for model in models:
            runs = getattr(model, "decodes", (AR,))
            if mode.name not in runs:
                raise UserError(f"--decoding {mode.name}: this checkpoint's model decodes {' or '.join(runs)} alone")
            if options.rescore and chooses and AR not in runs:
                raise UserError("--rescore: this checkpoint's model does not run AR, which would choose the text")
            asked = options if chooses else replace(options, rescore=0)
            for warning in warnings_of(
                getattr(model, "trained_modes", None), getattr(model, "trained_blocks", None), mode, asked
            ):
                logger.warning("%s", warning)

    def loop_generator(self, models, mode: Mode, options: Options, args) -> LoopGenerator:
        """The generator of all modes but AR, and of AR where `Bang` draws or streams."""
        statistics = Statistics(mode.name)
        blocking = getattr(args, "no_repeat_ngram_size", 0) if "no_repeat_ngram_size" in mode.options else 0
        link = self.link if mode.may_link(options) else None
        generator = LoopGenerator(
            models,
            mode.strategy(options),
            self._chooser(mode, options, args),
            max_len_a=getattr(args, "max_len_a", 0),
            max_len_b=getattr(args, "max_len_b", 200),
            max_len=self.cfg.max_nar_length,
            min_len=getattr(args, "min_len", 1),
            no_repeat_ngram=blocking,
            normalize_scores=not getattr(args, "unnormalized", False),
            len_penalty=getattr(args, "lenpen", 1),
            statistics=statistics,
            link=link,
            rescore=mode.value(options, "rescore") if link is not None else 0,
            ahead=slots_ahead([getattr(model, "trained_blocks", None) for model in models], 1 + mode.strategy(options).drafts),
        )
        # fairseq has no hook for the end of a run
        weakref.finalize(generator, statistics.report, self.cfg.log_format == "json")
        return generator

    def _chooser(self, mode: Mode, options: Options, args) -> Chooser:
        """Which token a slot gives. The noise of sampling follows the seed of `args`, or torch's random numbers."""
        sampling: dict[str, Any] = {}
        if "sampling" in mode.options and getattr(args, "sampling", False):
            seed = getattr(args, "seed", None)
            sampling = {
                "sampling": True,
                "topk": getattr(args, "sampling_topk", -1),
                "topp": getattr(args, "sampling_topp", -1.0),
                "seed": int(torch.randint(1 << 31, ())) if seed is None else seed,
            }
        return Chooser(
            self.target_dictionary.pad(),
            self.target_dictionary.unk(),
            self.target_dictionary.eos(),
            unk_penalty=getattr(args, "unkpen", 0),
            eos_penalty=mode.value(options, "eos_penalty"),
            temperature=getattr(args, "temperature", 1.0),
            **sampling,
        )

    def _warn_no_effect(self, mode: Mode, options: Options, args) -> None:
        """Says which options have no effect in the mode."""
        defaults, ours = GenerationConfig(), BangTranslationConfig()
        given = [name for name in OF_MODES if getattr(options, name) != DESCRIBED[name].default]
        given += ["max_nar_length"] if self.cfg.max_nar_length != ours.max_nar_length else []
        given += ["link"] if self.cfg.link not in (NO_LINK, None) else []
        given += [
            option.name
            for option in fields(GenerationConfig)
            if option.name not in OF_MODES and getattr(args, option.name, None) not in (None, getattr(defaults, option.name))
        ]
        given = [name for name in given if name != "beam" or args.beam != 1]
        idle = set(options_without_effect(mode, given))
        if mode.beam_search:
            idle |= {"max_nar_length"}
        else:
            idle |= {*NO_EFFECT_IN_LOOP, *(() if mode.strategy(options).anchored else ("prefix_size",))}
        if options.rescore and "rescore" not in idle and self.link is None:
            logger.warning("--rescore has no effect without --link, whose paths are the candidates")
        for name in given:
            if name in idle:
                logger.warning("--%s has no effect with --decoding %s", name.replace("_", "-"), mode.name)


@register_task("translation_bang_nar", dataclass=BangTranslationNarConfig)
class BangTranslationNarTask(BangTranslationTask):
    """The same task; decodes NAR unless --decoding says otherwise."""


class ReferenceScorer(SequenceScorer):
    """--score-reference in the mode of --decoding.

    Args:
        layout: makes the layout of a pass from the target length.
    """

    def __init__(self, tgt_dict, layout, compute_alignment: bool):
        super().__init__(tgt_dict, compute_alignment=compute_alignment)
        self.layout = layout

    def generate(self, models, sample, **kwargs):
        length = sample["target"].size(1)
        net_input = dict(sample["net_input"], layout=self.layout(length))
        return super().generate(models, dict(sample, net_input=net_input), **kwargs)


def _check_dictionaries(cfg: BangTranslationConfig) -> None:
    """Refuses folders of --data that were binarized with different dictionaries; fairseq reads the first folder's alone."""
    first, *others = utils.split_paths(cfg.data)
    for folder in others:
        for side in (cfg.source_lang, cfg.target_lang):
            ours, theirs = (os.path.join(path, f"dict.{side}.txt") for path in (first, folder))
            if os.path.exists(theirs) and not filecmp.cmp(ours, theirs, shallow=False):
                raise UserError(f"{theirs} differs from {ours}: binarize all folders with one --srcdict and --tgtdict")


def _check_object(text: str | None, option: str) -> None:
    """Refuses an option that holds JSON, and no object."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"""{option} {text!r:.80}: give a JSON object, as '{{"beam": 4}}'""")


def _unknown(texts, dictionary) -> tuple[int, int]:
    """How many tokens of some texts are unknown, and how many there are, eos not counted."""
    if not len(texts):
        return 0, 0
    tokens = torch.cat(list(texts))
    return int((tokens == dictionary.unk()).sum()), int((tokens != dictionary.eos()).sum())
