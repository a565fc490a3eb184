"""`--task bang_pretraining`: from binarized text to batches with hidden spans."""

import filecmp
import itertools
import logging
import os
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
from fairseq.data import ConcatDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset, get_available_dataset_impl, infer_dataset_impl
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from fairseq.utils import split_paths
from omegaconf import II, MISSING

from ...errors import UserError
from ..base_task import BangTask, BangTaskConfig
from ..dictionary import BertDictionary
from .dataset import BREAK_MODES, SpanDataset, TextBlocks
from .masking import SpanMasking

logger = logging.getLogger(__name__)

BreakMode: Any = ChoiceEnum(BREAK_MODES)
DatasetImpl: Any = ChoiceEnum(get_available_dataset_impl())


@dataclass
class PretrainingConfig(BangTaskConfig):
    data: str = field(
        default=MISSING,
        metadata={
            "help": "colon-separated folders that fairseq-preprocess --only-source wrote, one an epoch "
            "in turn; validation data and the dictionary come from the first"
        },
    )
    tokens_per_sample: int = field(default=512, metadata={"help": "word pieces of a full block"})
    sample_break_mode: BreakMode = field(
        default="doc",
        metadata={
            "help": "where a block ends. doc: when it is full or its document ends; none: when it is full; complete: before "
            "the first line that would not fit; complete_doc: the same, or where its document ends; eos: at the end of each "
            "line. Longer lines are divided; nothing is lost"
        },
    )
    mask_block: int = field(default=64, metadata={"help": "hide one span in every consecutive MASK_BLOCK word pieces"})
    mask_length: int = field(default=9, metadata={"help": "word pieces of a hidden span; the same share of a shorter block"})
    mask_share: float = field(default=0.8, metadata={"help": "share of the hidden word pieces that the encoder reads as [MASK]"})
    random_share: float = field(
        default=0.1,
        metadata={
            "help": "share of the hidden word pieces that the encoder reads as a random one; it reads the others unchanged"
        },
    )
    max_source_positions: int = field(default=512, metadata={"help": "positions of the encoder, at least --tokens-per-sample"})
    max_target_positions: int = field(
        default=512,
        metadata={"help": "positions of the decoder, at least --tokens-per-sample"},
    )
    seed: int = II("common.seed")
    dataset_impl: Optional[DatasetImpl] = II("dataset.dataset_impl")
    train_subset: str = II("dataset.train_subset")


def ordinary_pieces(dictionary: BertDictionary) -> np.ndarray:
    """Ids of the word pieces that text is made of: all but `[PAD]`, `[unused7]` and their kind."""
    special = [len(s) > 2 and s.startswith("[") and s.endswith("]") for s in dictionary.symbols]
    return np.flatnonzero(~np.array(special))


def check_shard(shard: str, first: str, split: str):
    """Raises ValueError unless folder `shard` holds `split`, binarized with the dictionary of `first`."""
    prefix = os.path.join(shard, split)
    impl = infer_dataset_impl(prefix) if os.path.exists(prefix + ".idx") else None
    if impl is None:
        raise UserError(
            f"{prefix}.bin or .idx is missing or unreadable: binarize the text with "
            "fairseq-preprocess --only-source or correct the path"
        )
    if impl != "mmap":
        raise UserError(f"{prefix} was binarized with --dataset-impl {impl}: binarize it again with mmap")
    dictionary, first_dictionary = os.path.join(shard, "dict.txt"), os.path.join(first, "dict.txt")
    if not os.path.exists(dictionary):
        raise UserError(f"{dictionary} is missing: binarize the text with --srcdict {first_dictionary}")
    if not filecmp.cmp(dictionary, first_dictionary, shallow=False):
        raise UserError(f"{dictionary} differs from {first_dictionary}: binarize all shards with one --srcdict")


@register_task("bang_pretraining", dataclass=PretrainingConfig)
class PretrainingTask(BangTask):
    """Pretraining on plain text: the decoder predicts the spans hidden from the encoder."""

    cfg: PretrainingConfig

    def __init__(self, cfg: PretrainingConfig, dictionary: BertDictionary):
        super().__init__(cfg)
        self.dictionary = dictionary
        if cfg.tokens_per_sample < 1:
            raise UserError(f"--tokens-per-sample {cfg.tokens_per_sample}: choose a number of at least 1")
        for side, positions in (("source", cfg.max_source_positions), ("target", cfg.max_target_positions)):
            if positions < cfg.tokens_per_sample:
                raise UserError(
                    f"--max-{side}-positions {positions} is less than --tokens-per-sample "
                    f"{cfg.tokens_per_sample}: raise the one or lower the other"
                )
        self.masking = SpanMasking(
            mask=dictionary.mask(),
            eos=dictionary.eos(),
            pieces=ordinary_pieces(dictionary),
            mask_block=cfg.mask_block,
            mask_length=cfg.mask_length,
            mask_share=cfg.mask_share,
            random_share=cfg.random_share,
        )

    @classmethod
    def setup_task(cls, cfg: PretrainingConfig, **kwargs: Any) -> "PretrainingTask":
        cls.check_checkpoints(cfg, **kwargs)
        path = os.path.join(split_paths(cfg.data)[0], "dict.txt")
        if not os.path.exists(path):
            raise UserError(
                f"{path} is missing: give folders that fairseq-preprocess --only-source wrote (without --source-lang)"
            )
        return cls(cfg, cls.load_dictionary(path))

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any):
        """Loads a split: of training data the epoch's shard, of other data the first one.

        Args:
            combine: whether `train1`, `train2` and so on belong to the split too.
        """
        if self.cfg.dataset_impl not in (None, "mmap"):
            raise UserError(f"--dataset-impl {self.cfg.dataset_impl} cannot be read in blocks: use mmap")
        shards = split_paths(self.cfg.data)
        if split != self.cfg.train_subset:
            shards = shards[:1]
        for shard in shards:  # all of them now, not after days of training
            check_shard(shard, shards[0], split)

        prefix = os.path.join(shards[(epoch - 1) % len(shards)], split)
        prefixes = [prefix]
        if combine:
            more = (f"{prefix}{k}" for k in itertools.count(1))
            prefixes += itertools.takewhile(MMapIndexedDataset.exists, more)
        parts = [TextBlocks(p, self.cfg.tokens_per_sample, str(self.cfg.sample_break_mode)) for p in prefixes]
        blocks = parts[0] if len(parts) == 1 else ConcatDataset(parts)
        if len(blocks) == 0:
            raise UserError(f"{prefix}.bin holds no text, only blank lines: binarize a file with text")
        logger.info(f"loaded {len(blocks):,} blocks, {blocks.sizes.sum():,} word pieces from: {prefix}")
        self.datasets[split] = SpanDataset(blocks, self.masking, self.dictionary, self.cfg.seed)

    def max_positions(self) -> tuple[int, int]:
        return self.cfg.max_source_positions, self.cfg.max_target_positions

    @property
    def source_dictionary(self) -> BertDictionary:
        return self.dictionary

    @property
    def target_dictionary(self) -> BertDictionary:
        return self.dictionary
