"""Datasets whose batches hold every sentence."""

from typing import List

import numpy as np
from fairseq.data import LanguagePairDataset


class EveryBatch:
    """Mixin for fairseq datasets: the last batch is kept.

    fairseq 0.12.3 drops the last batch if its size is not a multiple of
    --required-batch-size-multiple. Batches are consecutive runs of the ordered indices, so what
    is missing at the end is the batch that was dropped.
    """

    def batch_by_size(self, indices, *args, **kwargs) -> List[np.ndarray]:
        """As `FairseqDataset.batch_by_size`, with the batches that fairseq 0.9 made."""
        batches = list(super().batch_by_size(indices, *args, **kwargs)) if len(indices) else []
        if self.get_batch_shapes() is None:
            rest = np.asarray(indices)[sum(map(len, batches)) :]
            if len(rest):
                batches.append(rest)
        return batches


class PairDataset(EveryBatch, LanguagePairDataset):
    """Pairs of source and target; refuses ids that its dictionaries do not have."""

    @classmethod
    def of(cls, dataset: LanguagePairDataset) -> "PairDataset":
        """The same data, as fairseq loaded it, under this class."""
        pairs = cls.__new__(cls)
        pairs.__dict__.update(dataset.__dict__)
        return pairs

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        for side, dictionary in (("source", self.src_dict), ("target", self.tgt_dict)):
            tokens = sample[side]
            if tokens is not None and tokens.max() >= len(dictionary):
                raise ValueError(
                    f"{side} of sentence {index} has id {int(tokens.max())}, its dictionary {len(dictionary)} entries: "
                    "the data was binarized with another dictionary; run fairseq-preprocess again"
                )
        return sample
