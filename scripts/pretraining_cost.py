"""What a pretraining run will cost, stated before it starts.

    python scripts/pretraining_cost.py --world 8 DATA --task bang_pretraining …

takes the options of fairseq-train. Counts the blocks of every shard and the batches that fairseq will
make of them, and the arithmetic of the matrix products: 6 operations a weight and token, forward and
backward; attention itself is left out.
"""

import argparse
import logging
import math
import sys
from pathlib import Path

from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

USER_DIR = Path(__file__).resolve().parents[1] / "bang"
GPU = 40e12
"""Floating-point operations a second that a GPU may be expected to do: about a third of a V100's best in half precision."""


def operations(model, task, pieces: int) -> float:
    """Floating-point operations of training on a full block.

    Args:
        model, task: the options of each.
        pieces: entries of the dictionary.
    """
    spans = math.ceil(task.tokens_per_sample / task.mask_block)
    streams = spans * task.mask_length * (1 + model.ngram)  # main tokens and slots
    counted = spans * sum(min(index + 1, model.ngram) for index in range(task.mask_length))
    width, heads = model.decoder_embed_dim, model.decoder_attention_heads
    encoder_layer = 4 * model.encoder_embed_dim**2 + 2 * model.encoder_embed_dim * model.encoder_ffn_embed_dim
    # self-attention with its relative term, queries and output of the cross-attention, feed-forward
    decoder_layer = 6 * width**2 + width * model.num_buckets * heads + 2 * width * model.decoder_ffn_embed_dim
    source_keys = 2 * width * model.encoder_embed_dim  # keys and values of the cross-attention
    per_piece = model.encoder_layers * encoder_layer + model.decoder_layers * source_keys
    return 6 * (
        task.tokens_per_sample * per_piece + streams * model.decoder_layers * decoder_layer + counted * width * pieces
    )


def describe(cfg, world: int) -> str:
    """Blocks, updates and cost of the run with the options `cfg` in `world` processes."""
    task = tasks.setup_task(cfg.task)
    blocks, updates = [], []  # of each shard
    for epoch in range(1, len(utils.split_paths(cfg.task.data)) + 1):
        task.load_dataset("train", epoch)
        dataset, limits = task.dataset("train"), cfg.dataset
        batches = dataset.batch_by_size(
            dataset.ordered_indices(), limits.max_tokens, limits.batch_size, limits.required_batch_size_multiple
        )
        blocks.append(len(dataset))
        updates.append(math.ceil(math.ceil(len(batches) / world) / cfg.optimization.update_freq[0]))

    last_epoch, last_update = (limit or math.inf for limit in (cfg.optimization.max_epoch, cfg.optimization.max_update))
    if min(last_epoch, last_update) == math.inf:
        raise ValueError("neither --max-epoch nor --max-update says where pretraining ends")
    total = epochs = seen = 0
    while total < last_update and epochs < last_epoch:
        shard = epochs % len(blocks)
        done = min(updates[shard], last_update - total)
        total, epochs, seen = total + done, epochs + 1, seen + blocks[shard] * done / updates[shard]
    a_block = operations(cfg.model, cfg.task, len(task.dictionary))
    hours = seen * a_block / GPU / world / 3600
    return (
        f"expected: {total:,} updates of {seen / total:,.0f} blocks, {epochs} epochs of a shard, "
        f"{len(blocks)} shard(s) with {sum(blocks):,} blocks\n"
        f"cost: up to {seen * a_block:.1e} floating-point operations, {a_block:.1e} for a full block; {hours:,.1f} hours "
        f"if each of {world} GPU(s) does {GPU:.0e} a second"
    )


def main() -> None:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--world", type=int, default=1)
    known, command = own.parse_known_args()
    logging.disable(logging.WARNING)
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["--user-dir", str(USER_DIR), *command])
    try:
        print(describe(convert_namespace_to_omegaconf(args), known.world), flush=True)
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


if __name__ == "__main__":
    main()
