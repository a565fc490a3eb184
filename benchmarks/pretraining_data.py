"""Blocks a second that `--task bang_pretraining` delivers: read, masked, in batches, through fairseq's iterator.

    python benchmarks/pretraining_data.py                    random ids: 2 M pieces in lines of 5 to 40
    python benchmarks/pretraining_data.py DATA               a folder that fairseq-preprocess --only-source wrote

One epoch is timed for each number of workers, from the first batch on to the last, and so is what
comes before it (reading the index, cutting blocks, making batches).
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from fairseq.data.indexed_dataset import make_builder  # noqa: E402

from bang.plugin.pretraining.task import PretrainingConfig, PretrainingTask  # noqa: E402


def write_random_text(folder: Path, pieces: int) -> None:
    """Writes a binarized text: documents of 30 lines, of 5 to 40 pieces each, any id from 1000 on."""
    shutil.copy(REPOSITORY / "vocab.txt", folder / "dict.txt")
    rng = np.random.default_rng(1)
    builder = make_builder(str(folder / "train.bin"), "mmap", vocab_size=30522)
    eos = 102
    while pieces > 0:
        for length in rng.integers(5, 41, 30):
            builder.add_item(torch.from_numpy(np.append(rng.integers(1000, 30522, length), eos)))
            pieces -= length
        builder.add_item(torch.tensor([eos]))
    builder.finalize(str(folder / "train.idx"))


def measure(data: str, workers: int, mode: str, max_tokens: int) -> str:
    """Times one epoch and what precedes it."""
    start = time.perf_counter()
    cfg = PretrainingConfig(data=data, sample_break_mode=mode, seed=1, dataset_impl=None, train_subset="train")
    cfg.checkpoint_paths, cfg.skip_invalid_size_inputs_valid_test = None, False
    task = PretrainingTask.setup_task(cfg)
    task.load_dataset("train")
    dataset = task.dataset("train")
    options = {"max_tokens": max_tokens, "required_batch_size_multiple": 8, "num_workers": workers}
    iterator = task.get_batch_iterator(dataset, **options)
    ready = time.perf_counter()
    batches = blocks = pieces = 0
    for batch in iterator.next_epoch_itr():
        batches += 1
        blocks += batch["nsentences"]
        pieces += int(batch["net_input"]["src_lengths"].sum())
    seconds = time.perf_counter() - ready
    assert blocks == len(dataset), f"{blocks} of {len(dataset)} blocks came"
    iterator.epoch_batch_sampler.ordered_batches = None  # a reference to itself, which would delay its end
    return (
        f"{mode:13}{workers:8}{blocks:10,}{pieces:13,}{batches:9,}{ready - start:9.2f} s"
        f"{blocks / seconds:10,.0f}{pieces / 512 / seconds:14,.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="binarized text with a train split (default: random ids)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", default=["doc", "none", "complete_doc"], help="--sample-break-mode")
    parser.add_argument("--max-tokens", type=int, default=16384, help="pieces of a batch")
    parser.add_argument("--pieces", type=int, default=2_000_000, help="word pieces of random text")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")  # of pinned memory, where there is no accelerator
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            write_random_text(Path(folder), args.pieces)
        print("mode          workers    blocks       pieces  batches     before  blocks/s  x 512 pieces/s")
        for mode in args.modes:
            for workers in args.workers:
                print(measure(args.data or folder, workers, mode, args.max_tokens), flush=True)


if __name__ == "__main__":
    main()
