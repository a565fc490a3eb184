"""Datasets whose batches hold every sentence."""

import os
from collections.abc import Sequence

import numpy as np
from fairseq.data import FairseqDataset, LanguagePairDataset
from fairseq.data.indexed_dataset import _code_to_dtype, data_file_path, index_file_path

from ..errors import UserError


def targets_from(indices: Sequence[np.ndarray]) -> list[int]:
    """How many targets of a batch stand at index i of their span or later, for each i.

    Plain numbers, so that the criterion knows how many slots count without waiting for a GPU.

    Args:
        indices: of each sentence, the index of each target in its span (T,); a sentence is one span.
    """
    at = np.bincount(np.concatenate(indices))
    return at[::-1].cumsum()[::-1].tolist()


def check_ids(tokens, dictionary, what: str) -> None:
    """Refuses ids (T,) of binarized text that the dictionary does not have, or that no text has.

    Args:
        what: they are, for the message.
    """
    # a text ends with eos, so a pad there is none that it spells
    if not len(tokens) or int(tokens.min()) < 0 or int(tokens[-1]) == dictionary.pad():
        raise UserError(f"{what} is damaged: it does not end as a text does, or has negative ids; run fairseq-preprocess again")
    if int(tokens.max()) >= len(dictionary):
        raise UserError(
            f"{what} has id {int(tokens.max())}, its dictionary {len(dictionary)} entries: "
            "the data was binarized with another dictionary; run fairseq-preprocess again"
        )


_MAGIC, _OLD_MAGIC = b"MMIDIDX\0\0", b"TNTIDX\0\0"
_HEAD = 26  # bytes: the magic, a version (8), a code for the kind of integers (1), how many texts (8)


def check_binarized(prefix: str) -> None:
    """Refuses an index whose texts are not those of its data: fairseq believes it, and reads whatever lies there.

    Args:
        prefix: path of the two files without .idx and .bin.
    """
    index, data = index_file_path(prefix), data_file_path(prefix)
    remedy = "damaged or truncated; copy it again, or run fairseq-preprocess again"
    with open(index, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_OLD_MAGIC):
        return
    kind = _code_to_dtype.get(head[17]) if len(head) == _HEAD and head.startswith(_MAGIC) else None
    count = int.from_bytes(head[18:26], "little")
    if kind is None or int.from_bytes(head[9:17], "little") != 1 or os.path.getsize(index) != _HEAD + 12 * count:
        raise UserError(f"{index}: {remedy}")
    if not os.path.isfile(data):
        raise UserError(f"{data}: no such file; {index} is its index")
    sizes = np.fromfile(index, np.int32, count, offset=_HEAD).astype(np.int64)
    starts = np.fromfile(index, np.int64, count, offset=_HEAD + 4 * count)
    ends = sizes.cumsum() * np.dtype(kind).itemsize
    if count and (sizes.min() < 1 or starts[0] or not np.array_equal(starts[1:], ends[:-1])):
        raise UserError(f"{index}: {remedy}")
    if os.path.getsize(data) != (ends[-1] if count else 0):
        raise UserError(f"{data}: {os.path.getsize(data)} bytes, and its index is of {ends[-1] if count else 0}; {remedy}")


class EveryBatch(FairseqDataset):
    """Mixin for fairseq datasets: the last batch is kept.

    fairseq 0.12.3 drops what is left at the end if its number is not a multiple of
    --required-batch-size-multiple. Batches are consecutive runs of the ordered indices, so the
    sentences that no batch holds are the last ones.
    """

    def batch_by_size(self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1) -> list[np.ndarray]:
        """As `FairseqDataset.batch_by_size`, with the batches that fairseq 0.9 made."""
        if not len(indices):
            return []
        limits = max_tokens, max_sentences, required_batch_size_multiple
        batches = list(super().batch_by_size(indices, *limits))
        rest = np.asarray(indices)[sum(map(len, batches)) :]
        if self.get_batch_shapes() is not None or not len(rest):
            return batches
        if batches:  # fairseq 0.9 cut no multiple out of a last batch that fits whole
            last = np.concatenate([batches[-1], rest])
            tokens = len(last) * max(self.num_tokens(index) for index in last)
            if len(last) <= (max_sentences or len(last)) and tokens <= (max_tokens or tokens):
                return batches[:-1] + [last]
        return batches + [rest]


class PairDataset(EveryBatch, LanguagePairDataset):
    """Pairs of source and target; refuses ids that its dictionaries do not have."""

    typed = False  # lines of fairseq-interactive
    where = ""  # what it was read from, for messages
    length_bucket = 1  # --length-bucket

    @classmethod
    def of(cls, dataset: LanguagePairDataset) -> "PairDataset":
        """The same data, as fairseq loaded it, under this class."""
        pairs = cls.__new__(cls)
        pairs.__dict__.update(dataset.__dict__)
        return pairs

    def ordered_indices(self) -> np.ndarray:
        """As fairseq's, shuffled and by length, but sources of one bucket of lengths count as equally long."""
        if not self.shuffle or self.length_bucket == 1:
            return super().ordered_indices()
        indices = np.random.permutation(len(self))
        indices = indices[np.argsort(self.tgt_sizes[indices], kind="stable")]
        return indices[np.argsort(self.src_sizes[indices] // self.length_bucket, kind="stable")]

    def collater(self, samples, pad_to_length=None) -> dict:
        """As fairseq's; with `targets_from` (see there)."""
        batch = super().collater(samples, pad_to_length)
        if batch and batch.get("target") is not None:
            # a [PAD] that a target spells is no target: the loss leaves it out, as padding
            pad = self.tgt_dict.pad()
            batch["targets_from"] = targets_from([np.flatnonzero(sample["target"] != pad) for sample in samples])
        return batch

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        for side, dictionary in (("source", self.src_dict), ("target", self.tgt_dict)):
            tokens = sample[side]
            if tokens is not None:
                check_ids(tokens, dictionary, f"{self.where}{side} of sentence {index}")
        return sample
