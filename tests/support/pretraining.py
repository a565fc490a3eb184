"""Pretraining data out of lists of ids, and the task on it."""

import random
import shutil

import torch
from conftest import VOCAB_SMALL
from fairseq.data import indexed_dataset

from bang.plugin.pretraining.task import PretrainingConfig, PretrainingTask

EOS = 102


def binarize(folder, documents, split="train", separators=None):
    """Writes documents (lists of lines of ids) as fairseq-preprocess does, with blank lines between them."""
    folder.mkdir(exist_ok=True)
    shutil.copy(VOCAB_SMALL, folder / "dict.txt")
    prefix = str(folder / split)
    builder = indexed_dataset.make_builder(prefix + ".bin", "mmap", vocab_size=1389)
    for number, document in enumerate(documents):
        blank = [[]] * (separators[number] if separators else 1)
        for line in document + blank:
            builder.add_item(torch.tensor(line + [EOS]))
    builder.finalize(prefix + ".idx")
    return prefix


def random_documents(seed, count=30, most_lines=12):
    rng = random.Random(seed)
    return [
        [[rng.randrange(999, 1389) for _ in range(rng.randint(1, 40))] for _ in range(rng.randint(0, most_lines))]
        for _ in range(count)
    ]


def make_pretraining_task(*folders, **cfg):
    outside = {"seed": 1, "dataset_impl": None, "train_subset": "train", "checkpoint_paths": None}
    outside["skip_invalid_size_inputs_valid_test"] = False
    cfg = {**outside, "tokens_per_sample": 80, **cfg}
    return PretrainingTask.setup_task(PretrainingConfig(data=":".join(map(str, folders)), **cfg))
