"""The tasks translation_bang and translation_bang_nar: data in, generator out."""

import copy
import logging
import os
import weakref
from dataclasses import dataclass, field
from typing import Optional, Tuple

import torch
from fairseq import utils
from fairseq.data import data_utils
from fairseq.dataclass import ChoiceEnum
from fairseq.dataclass.configs import GenerationConfig
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import II

from . import raw_text, training_run, visibility
from .base_task import BangTask, BangTaskConfig
from .data import PairDataset
from .generation import ways
from .generation.autoregressive import AlignedArGenerator, ArGenerator
from .generation.choice import Chooser
from .generation.generator import LoopGenerator
from .generation.rescore import RescoringGenerator
from .generation.statistics import Statistics
from .trained_modes import MODES, warning_of_blocks

logger = logging.getLogger(__name__)

DECODINGS = ["ar", "semi-nar", "nar", "speculative"]
HOW = {
    "help": "how to generate: token by token with beam search, in blocks, in one pass, or AR's greedy words by "
    "drafting and verifying several tokens a pass (--beam is for the first alone; the last refuses it, but for 1 and for "
    "fairseq's default of 5, which cannot be told from 5 given)"
}
NO_EFFECT_IN_LOOP = (
    "nbest diverse_beam_groups diversity_rate match_source_len constraints print_alignment replace_unk lm_path"
).split()
"""Generation options that choose among hypotheses, or look into AR's search."""
NO_EFFECT_UNVERIFIED = "sampling sampling_topk sampling_topp no_repeat_ngram_size".split()
"""Generation options that look at the tokens before, one by one."""


OF_DECODING = ("decoding", "block_size", "commit_threshold", "draft_length", "draft_from_source", "eos_penalty")
UNKNOWN_SAMPLE = 1000  # first texts of a split that tell whether raw text was binarized


@dataclass
class BangTranslationConfig(TranslationConfig, BangTaskConfig):
    decoding: ChoiceEnum(DECODINGS) = field(default="ar", metadata=HOW)
    block_size: int = field(
        default=visibility.BLOCK_SIZE, metadata={"help": "tokens that semi-NAR predicts at once"}
    )
    commit_threshold: float = field(
        default=0.0,
        metadata={
            "help": "semi-NAR keeps the beginning of a block whose tokens each have at least this probability, one token "
            "at least; the others are drafts that the next pass verifies: 0 keeps whole blocks, 1 is greedy AR's text. Blocks "
            "then hang on any token: train with --ngram, or with --semi-nar-ratio and --random-block-offset"
        },
    )
    rescore: int = field(
        default=0,
        metadata={
            "help": "NAR and semi-NAR decode this many texts of neighbouring lengths, and the checkpoint's AR scores them in "
            "one pass and picks the best (0: the one text)"
        },
    )
    length_bucket: int = field(
        default=1,
        metadata={
            "help": "training batches hold sources whose lengths share a bucket of so many tokens, sorted by target length "
            "within it: a little more padding of sources, much less of targets (1: by source length first, as fairseq)"
        },
    )
    draft_length: int = field(
        default=visibility.BLOCK_SIZE, metadata={"help": "tokens that speculative decoding drafts at once"}
    )
    draft_from_source: float = field(
        default=ways.SOURCE_GAIN,
        metadata={
            "help": "what the log-probability of a draft gains if, somewhere in the source, it follows the token before it: "
            "of several likely drafts the one that the source has is tried (0: the network alone drafts)"
        },
    )
    eos_penalty: float = field(
        default=0.0,
        metadata={
            "help": "what NAR and semi-NAR take off the log-probability of a text's end: their texts tend to be short, for several "
            "ends share what there is to say (0: nothing; below 0: shorter texts)"
        },
    )
    max_nar_length: int = field(
        default=0,
        metadata={"help": "limit on the tokens of a text that is not decoded by beam search, beside --max-len-a/b (0: none)"},
    )
    log_format: Optional[str] = II("common.log_format")


@dataclass
class BangTranslationNarConfig(BangTranslationConfig):
    decoding: ChoiceEnum(DECODINGS) = field(default="nar", metadata=HOW)


@register_task("translation_bang", dataclass=BangTranslationConfig)
class BangTranslationTask(BangTask, TranslationTask):
    """Source to target text in word pieces; decodes AR unless --decoding says otherwise."""

    def __init__(self, cfg: BangTranslationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        if cfg.left_pad_target:
            raise ValueError("--left-pad-target True is not supported: slots count from the first target")
        if cfg.length_bucket < 1:
            raise ValueError(f"--length-bucket {cfg.length_bucket}: a bucket holds at least 1 length")

    @classmethod
    def setup_task(cls, cfg: BangTranslationConfig, **kwargs):
        """Loads the dictionaries of --data, which must agree on the special pieces."""
        cls.check_checkpoints(cfg, **kwargs)
        try:
            return super().setup_task(cfg)
        except AssertionError:
            raise ValueError(
                f"{cfg.data}: the source and target dictionaries disagree on the ids of [PAD], [UNK] or [SEP]; "
                "run fairseq-preprocess again with vocab.txt as --srcdict and --tgtdict"
            ) from None

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """Loads a split; source and target must have the same number of lines."""
        try:
            super().load_dataset(split, epoch, combine, **kwargs)
        except AssertionError as error:
            raise ValueError(f"{self.cfg.data}, split {split}: {self._count_pairs(split, epoch)} ({error})") from None
        self.datasets[split] = PairDataset.of(self.datasets[split])
        self.datasets[split].length_bucket = self.cfg.length_bucket
        for side, texts, dictionary in (
            (self.cfg.source_lang, self.datasets[split].src, self.source_dictionary),
            (self.cfg.target_lang, self.datasets[split].tgt, self.target_dictionary),
        ):
            if texts is not None:
                first = [texts[index] for index in range(min(len(texts), UNKNOWN_SAMPLE))]
                raw_text.warn_of_unknown(*_unknown(first, dictionary), f"{self.cfg.data}, split {split}.{side}")

    def _count_pairs(self, split: str, epoch: int) -> str:
        paths = utils.split_paths(self.cfg.data)
        src, tgt = self.cfg.source_lang, self.cfg.target_lang
        prefix = os.path.join(paths[(epoch - 1) % len(paths)], f"{split}.{src}-{tgt}.")
        sizes = [
            len(data_utils.load_indexed_dataset(prefix + side, None, self.cfg.dataset_impl) or ())
            for side in (src, tgt)
        ]
        return f"{sizes[0]} source and {sizes[1]} target lines; binarize texts that run line by line in parallel"

    def build_model(self, cfg, from_checkpoint: bool = False):
        """As fairseq's; --bpe bang gives --eval-bleu text for people too."""
        model = super().build_model(cfg, from_checkpoint)
        run = training_run.whole(cfg)
        is_ours = run is not None and getattr(run.get("bpe"), "_name", run.get("bpe")) == "bang"
        if is_ours and self.cfg.eval_bleu and self.cfg.eval_bleu_detok == "space":
            self.tokenizer = raw_text.BangDetokenizer()
        return model

    def build_bpe(self, args):
        """As fairseq's; --bpe bang splits into the pieces that the source dictionary has."""
        bpe = super().build_bpe(args)
        if isinstance(bpe, raw_text.BangBpe) and not bpe.has_own_vocabulary:
            bpe.use(self.source_dictionary.symbols)
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
        self.source_dictionary.encoded.clear()  # told
        if self.cfg.truncate_source:
            limit = self.cfg.max_source_positions
            src_tokens = [
                tokens if len(tokens) <= limit else torch.cat([tokens[: limit - 1], tokens[-1:]])
                for tokens in src_tokens
            ]
            src_lengths = [len(tokens) for tokens in src_tokens]
        data = PairDataset(
            src_tokens, src_lengths, self.source_dictionary, tgt_dict=self.target_dictionary, constraints=constraints
        )
        data.typed = bool(self.cfg.checkpoint_paths)  # not from fairseq's hub interface, which counts the answers
        return data

    def build_generator(
        self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None, prefix_allowed_tokens_fn=None
    ):
        """The generator that --decoding names, with the contract of fairseq's SequenceGenerator.

        `args` may name another decoding and its options, as those of the hub interface's `translate` and of
        --eval-bleu-args can.
        """
        asked = {name: getattr(args, name) for name in OF_DECODING if getattr(args, name, None) is not None}
        if asked.get("decoding", "ar") not in DECODINGS:
            raise ValueError(f"decoding {asked['decoding']!r}: give one of {', '.join(DECODINGS)}")
        if any(getattr(self.cfg, name) != value for name, value in asked.items()):
            other = copy.copy(self)
            other.cfg = copy.deepcopy(self.cfg)
            for name, value in asked.items():
                setattr(other.cfg, name, value)
            return other.build_generator(models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn)
        decoding = self.cfg.decoding
        for model in models:
            if decoding not in getattr(model, "decodes", ("ar",)):
                raise ValueError(
                    f"--decoding {decoding}: this checkpoint's model decodes {' or '.join(model.decodes)} alone"
                )
        if decoding == "speculative" and getattr(args, "beam", 1) not in (1, GenerationConfig().beam):
            raise ValueError(
                f"--beam {args.beam} with --decoding speculative: it gives the words of --beam 1, and --decoding ar those "
                "of a beam search"
            )
        self._warn_untrained(models)
        self._warn_no_effect(args)
        if getattr(args, "score_reference", False):
            return ReferenceScorer(self.target_dictionary, self._scored_layout(), bool(args.print_alignment))
        if decoding == "ar":
            if seq_gen_cls is None:
                seq_gen_cls = AlignedArGenerator if getattr(args, "print_alignment", None) else ArGenerator
                if seq_gen_cls is AlignedArGenerator:
                    extra_gen_cls_kwargs = {**(extra_gen_cls_kwargs or {}), "print_alignment": args.print_alignment}
            return super().build_generator(models, args, seq_gen_cls, extra_gen_cls_kwargs, prefix_allowed_tokens_fn)
        statistics = Statistics(str(decoding))  # fairseq's command lines give an enum
        generator = LoopGenerator(
            models,
            self._way(args),
            Chooser(
                self.target_dictionary.pad(),
                self.target_dictionary.unk(),
                self.target_dictionary.eos(),
                unk_penalty=getattr(args, "unkpen", 0),
                eos_penalty=self.cfg.eos_penalty if self._unverified() else 0.0,
                temperature=getattr(args, "temperature", 1.0),
                **self._sampling(args),
            ),
            max_len_a=getattr(args, "max_len_a", 0),
            max_len_b=getattr(args, "max_len_b", 200),
            max_len=self.cfg.max_nar_length,
            min_len=getattr(args, "min_len", 1),
            no_repeat_ngram=0 if self._unverified() else getattr(args, "no_repeat_ngram_size", 0),
            normalize_scores=not getattr(args, "unnormalized", False),
            len_penalty=getattr(args, "lenpen", 1),
            statistics=statistics,
        )
        # fairseq tells a generator nothing of a run's end
        weakref.finalize(generator, statistics.report, self.cfg.log_format == "json")
        if self.cfg.rescore and self._unverified():
            if any("ar" not in model.decodes for model in models):
                raise ValueError("--rescore: this checkpoint's model does not run AR, which would choose the text")
            for trained in filter(None, (getattr(model, "trained_modes", None) for model in models)):
                if "ar" not in trained:
                    logger.warning(
                        "--rescore: this checkpoint was not trained for AR, which chooses the text, but for %s alone: expect a poor "
                        "choice; decode without it, or train with a lower --nar-ratio or --semi-nar-ratio", " and ".join(trained),
                    )  # fmt: skip
            return RescoringGenerator(generator, self.cfg.rescore)
        return generator

    def _way(self, args) -> ways.Way:
        """What a pass gives and what is kept of it, by --decoding and its options."""
        if self.cfg.decoding == "nar":
            return ways.non_autoregressive()
        # a source in other ids has nothing to say
        gain = self.cfg.draft_from_source if self.source_dictionary == self.target_dictionary else 0
        if self.cfg.decoding == "semi-nar":
            return ways.semi_autoregressive(self.cfg.block_size, self.cfg.commit_threshold, gain)
        return ways.speculative(self.cfg.draft_length, gain)

    def _unverified(self) -> bool:
        """Whether tokens are kept that nothing has verified."""
        return self.cfg.decoding in ("semi-nar", "nar")

    def _sampling(self, args) -> dict:
        """The chooser's options of sampling; the noise follows torch's random numbers, and so --seed."""
        if self._unverified() or not getattr(args, "sampling", False):
            return {}
        return {
            "sampling": True,
            "topk": getattr(args, "sampling_topk", -1),
            "topp": getattr(args, "sampling_topp", -1.0),
            "seed": int(torch.randint(1 << 31, ())),
        }

    def _scored_layout(self):
        """The layout in which --score-reference scores: that of the decoding mode."""
        return {
            "ar": visibility.autoregressive,
            "speculative": visibility.autoregressive,
            "semi-nar": lambda length: visibility.semi_autoregressive(length, self.cfg.block_size),
            "nar": visibility.non_autoregressive,
        }[self.cfg.decoding]

    def _warn_untrained(self, models) -> None:
        """Says so where a checkpoint was not trained for the decoding mode, or for such blocks."""
        for model in models:
            trained = getattr(model, "trained_modes", None)
            if trained and self.cfg.decoding in MODES and self.cfg.decoding not in trained:
                logger.warning(
                    "--decoding %s: this checkpoint was trained for %s alone, expect poor texts; decode in a mode that "
                    "it was trained for, or train it with another --nar-ratio or --semi-nar-ratio",
                    self.cfg.decoding, " and ".join(trained),
                )  # fmt: skip
            of_blocks = warning_of_blocks(
                getattr(model, "trained_blocks", None), str(self.cfg.decoding), self.cfg.block_size, self.cfg.commit_threshold,
                self.cfg.draft_length,
            )  # fmt: skip
            if of_blocks:
                logger.warning("%s", of_blocks)

    def _warn_no_effect(self, args) -> None:
        """Says which options the decoding mode passes over."""
        idle = []
        if self.cfg.decoding == "ar":
            idle += ["--max-nar-length"] if self.cfg.max_nar_length else []
        else:
            defaults = GenerationConfig()
            passed_over = NO_EFFECT_IN_LOOP + (NO_EFFECT_UNVERIFIED if self._unverified() else [])
            passed_over += ["prefix_size"] if self.cfg.decoding == "nar" else []
            idle += ["--beam"] if getattr(args, "beam", 1) not in (1, defaults.beam) else []
            idle += [
                "--" + name.replace("_", "-")
                for name in passed_over
                if getattr(args, name, None) not in (None, getattr(defaults, name))
            ]
        for name, default, decoding in (
            ("block_size", visibility.BLOCK_SIZE, "semi-nar"),
            ("commit_threshold", 0.0, "semi-nar"),
            ("draft_length", visibility.BLOCK_SIZE, "speculative"),
            ("draft_from_source", ways.SOURCE_GAIN, "speculative semi-nar"),
            ("rescore", 0, "nar semi-nar"),
            ("eos_penalty", 0.0, "nar semi-nar"),
        ):
            if self.cfg.decoding not in decoding.split() and getattr(self.cfg, name) != default:
                idle.append("--" + name.replace("_", "-"))
        for option in idle:
            logger.warning("%s has no effect with --decoding %s", option, self.cfg.decoding)


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


def _unknown(texts, dictionary) -> Tuple[int, int]:
    """How many tokens of some texts are unknown, and how many there are, eos not counted."""
    if not len(texts):
        return 0, 0
    tokens = torch.cat(list(texts))
    return int((tokens == dictionary.unk()).sum()), int((tokens != dictionary.eos()).sum())
