"""Binarized text in blocks, and the batches that pretraining learns from.

`fairseq-preprocess --only-source` writes each line of text as its word pieces
and an eos, and a blank line, which ends a document, as a lone eos. Neither kind
of eos is training text: a block holds word pieces alone, so a full one is
exactly `tokens_per_sample` pieces long.

Piece number p of the text (counted without any eos) is token p + l of the
file, where l is the number of lines before it: with that, a block is one slice
of the memory map less the line ends in it, and all that stays in memory is a
few numbers a block. Line ends are found by the lines' lengths, never by their
id, so that a literal [SEP] in the text is a piece like any other.

fairseq's TokenBlockDataset is not used: it makes a block of any length out of
an over-long line, loses blocks of one piece once line ends are left out, and
its `eos` mode fails under numpy 2.

Shapes: `B` blocks in a batch, `S` pieces of the longest one, `T` hidden pieces
of the one with most.
"""

import numpy as np
import torch
from fairseq.data import data_utils
from fairseq.data.indexed_dataset import MMapIndexedDataset, data_file_path, index_file_path

from ...errors import UserError
from ..data import EveryBatch, check_binarized, targets_from
from ..dictionary import BertDictionary
from .masking import SpanMasking, block_generator, hide_spans

BREAK_MODES = ("doc", "none", "complete", "complete_doc", "eos")


def cut(segments: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts segments of the given lengths (K,) into full blocks and what remains.

    Returns:
        The lengths of the blocks, in order, and of each the segment it is from.
    """
    counts = -(-segments // block_size)
    owner = np.repeat(np.arange(len(segments)), counts)
    lengths = np.full(len(owner), block_size, dtype=np.int64)
    lengths[np.cumsum(counts) - 1] = segments - (counts - 1) * block_size
    return lengths, owner


def fill(units: np.ndarray, documents: np.ndarray, block_size: int) -> np.ndarray:
    """Fills blocks with as many whole units as they hold.

    Args:
        units: lengths of the units (K,), from 1 to `block_size`.
        documents: number of the document of each unit (K,), ascending; blocks
            keep to one.

    Returns:
        The lengths of the blocks, in order.
    """
    ends = np.cumsum(units)
    too_much = np.searchsorted(ends, ends - units + block_size, side="right")
    document_end = np.searchsorted(documents, documents, side="right")
    following = np.minimum(too_much, document_end)  # first unit after a block that begins with this one
    firsts, unit = [], 0
    while unit < len(units):  # a step a block: where one begins depends on all before it
        firsts.append(unit)
        unit = following[unit]
    return np.add.reduceat(units, firsts)


def block_lengths(lines: np.ndarray, block_size: int, break_mode: str) -> np.ndarray:
    """Lengths of the blocks that a text is divided into, in order; together they hold all of it.

    Args:
        lines: word pieces of each line (lines,), 0 for one that ends a document.
        block_size: most pieces of a block.
        break_mode: one of `BREAK_MODES`, see `--sample-break-mode`.
    """
    assert break_mode in BREAK_MODES, break_mode
    document = np.cumsum(lines == 0)[lines > 0]
    lines = lines[lines > 0]
    if len(lines) == 0:
        return np.zeros(0, dtype=np.int64)
    if break_mode == "none":
        return cut(np.array([lines.sum()]), block_size)[0]
    if break_mode == "eos":
        return cut(lines, block_size)[0]
    if break_mode == "doc":
        first_lines = np.flatnonzero(np.diff(document, prepend=-1))
        return cut(np.add.reduceat(lines, first_lines, dtype=np.int64), block_size)[0]
    units, line = cut(lines, block_size)  # a line longer than a block has to be cut here too
    if break_mode == "complete":
        document = np.zeros_like(document)
    return fill(units, document[line], block_size)


class TextBlocks:
    """The blocks of one binarized text: `blocks[i]` is int64, (length,).

    Args:
        prefix: path of the `.bin` and `.idx` files, without the ending.
        block_size: most pieces of a block.
        break_mode: one of `BREAK_MODES`.
    """

    def __init__(self, prefix: str, block_size: int, break_mode: str):
        self._made_from = (prefix, block_size, break_mode)
        check_binarized(prefix)
        self._index = MMapIndexedDataset.Index(index_file_path(prefix))
        lines = self._index.sizes - 1  # less the eos of each
        self.sizes = block_lengths(lines, block_size, break_mode).astype(np.int32)
        # numpy maps no empty file, and none is needed where there is no block
        self._tokens: np.ndarray = np.empty(0, self._index.dtype)
        if len(self):
            self._tokens = np.memmap(data_file_path(prefix), self._index.dtype, mode="r")

        line_ends = np.cumsum(lines, dtype=np.int64)
        after = np.cumsum(self.sizes, dtype=np.int64)
        first = after - self.sizes  # piece numbers of the blocks' first pieces
        self._line = np.searchsorted(line_ends, first, side="right")
        last_line = np.searchsorted(line_ends, after - 1, side="right")
        self._begin = first + self._line  # token of the file that the block begins with
        self._breaks = (last_line - self._line).astype(np.int32)  # line ends within the block
        # pieces of its first line that belong to earlier blocks
        self._skip = (first - line_ends[self._line] + lines[self._line]).astype(np.int32)

    def __reduce__(self):
        # a process that is not a fork opens the files itself: a pickled memory map is all of its text
        return TextBlocks, self._made_from

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> np.ndarray:
        line, begin, breaks = self._line[i], self._begin[i], self._breaks[i]
        tokens = self._tokens[begin : begin + self.sizes[i] + breaks]
        if breaks:
            line_ends = np.cumsum(self._index.sizes[line : line + breaks]) - 1 - self._skip[i]
            tokens = np.delete(tokens, line_ends)
        return np.asarray(tokens, dtype=np.int64)


class SpanDataset(EveryBatch):
    """Blocks of text with hidden spans, which differ from epoch to epoch.

    What is hidden in a block follows from the seed, the epoch and the block's
    index, so neither batches nor workers, ranks or a resume change it.

    Args:
        blocks: the text, e.g. `TextBlocks` or a fairseq ConcatDataset of them.
        masking: what to hide.
        dictionary: what the ids stand for.
        seed: `--seed`.
    """

    def __init__(self, blocks, masking: SpanMasking, dictionary: BertDictionary, seed: int):
        self.blocks = blocks
        self.sizes = np.asarray(blocks.sizes)
        self.masking = masking
        self.dictionary = dictionary
        self.seed = seed
        # in shared memory: fairseq keeps iterator and workers, and they must see the next epoch
        self._epoch = torch.ones(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> dict:
        """Returns `id` and the tensors of `masking.HiddenBlock`, by name."""
        block = self.blocks[index]
        if block.min() < 0 or block.max() >= len(self.dictionary):
            raise UserError(
                f"block {index} has id {block.max()}, its dictionary {len(self.dictionary)} entries: "
                "the text was binarized with another dictionary; run fairseq-preprocess again"
            )
        hidden = hide_spans(block, self.masking, block_generator(self.seed, int(self._epoch), int(index)))
        return {"id": int(index), **{name: torch.from_numpy(x) for name, x in hidden._asdict().items()}}

    def collater(self, samples: list[dict]) -> dict:
        """Pads samples on the right and stacks them.

        Returns:
            `id` (B,), `nsentences`, `ntokens` (hidden pieces), `net_input` with
            `src_tokens` (B, S), `src_lengths` (B,), `prev_output_tokens` and
            `positions` (B, T), `target` (B, T), `target_idx` (B, T; -1 where
            the rest is padded), `targets_from` (see there). An empty dict for no samples: fairseq gives
            such a batch to the ranks that have run out of text.
        """
        if not samples:
            return {}

        pad = self.dictionary.pad()

        def stack(name, pad=pad):
            return data_utils.collate_tokens([sample[name] for sample in samples], pad)

        # a [PAD] that the text spells is no target: the loss leaves it out, as padding
        indices = [sample["target_idx"][sample["target"] != pad].numpy() for sample in samples]

        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": sum(map(len, indices)),
            "net_input": {
                "src_tokens": stack("source"),
                "src_lengths": torch.tensor([len(sample["source"]) for sample in samples]),
                "prev_output_tokens": stack("prev_output_tokens"),
                "positions": stack("positions"),
            },
            "target": stack("target"),
            "target_idx": stack("target_idx", pad=-1),
            "targets_from": targets_from(indices),
        }

    def num_tokens(self, index: int) -> int:
        """Pieces of the block: what `--max-tokens` counts."""
        return int(self.sizes[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.sizes[indices]

    def size(self, index: int) -> tuple[int, int]:
        """Positions that encoder and decoder need: both number the pieces of the block."""
        return int(self.sizes[index]), int(self.sizes[index])

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes) -> tuple[np.ndarray, list[int]]:
        return data_utils.filter_paired_dataset_indices_by_size(self.sizes, self.sizes, indices, max_sizes)

    def ordered_indices(self) -> np.ndarray:
        """Shuffled, then by length, so that a batch holds blocks of about one length.

        In every epoch alike, whatever numpy's seed: fairseq shuffles the batches
        by epoch, and a resumed epoch must find the batches it was stopped in.
        """
        indices = np.random.default_rng(self.seed).permutation(len(self))
        return indices[np.argsort(self.sizes[indices], kind="stable")]
