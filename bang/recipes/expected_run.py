"""How long a run will be, stated before it starts, what pretraining will cost, and a warm-up that fits.

    python -m bang.recipes.expected_run --world 8 --warmup 1000 DATA --task translation_bang …

takes the options of fairseq-train, and counts the batches that fairseq will make of every shard. The cost
is the arithmetic of the matrix products: 6 operations a weight and token, forward and backward; attention
itself is left out.
"""

import argparse
import logging
import math
from pathlib import Path

from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from .. import plugin  # noqa: F401  (registers BANG: --user-dir does nothing where `bang` is imported already)
from ..errors import UserError, exit_on_mistakes

USER_DIR = Path(__file__).parents[1]  # as this package was imported: fairseq takes no other for the same
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
    return 6 * (task.tokens_per_sample * per_piece + streams * model.decoder_layers * decoder_layer + counted * width * pieces)


def count(cfg, task, world: int) -> tuple[list[int], list[int]]:
    """Examples of each shard, and batches that one of `world` processes has of it."""
    examples, batches = [], []
    for epoch in range(1, len(utils.split_paths(cfg.task.data)) + 1):
        task.load_dataset("train", epoch, combine=True)
        dataset, limits = task.dataset("train"), cfg.dataset
        iterator = task.get_batch_iterator(
            dataset,
            limits.max_tokens,
            limits.batch_size,
            utils.resolve_max_positions(task.max_positions(), limits.max_tokens),
            required_batch_size_multiple=limits.required_batch_size_multiple,
            num_shards=world,
            disable_iterator_cache=True,
        )
        examples.append(len(dataset))
        batches.append(len(iterator))
    return examples, batches


def begun_warmup(checkpoint) -> int:
    """Warm-up of the run that these options go on with: with another its learning rate would jump. 0: a new run."""
    from ..safety import checkpoints, files

    path = Path(checkpoint.restore_file)
    path = Path(checkpoint.save_dir) / path if str(path) == "checkpoint_last.pt" else path
    if checkpoint.reset_lr_scheduler or not path.is_file():
        return 0
    state = files.read(checkpoints.resumable(str(path)), mmap=True)
    return int(((state.get("cfg") or {}).get("lr_scheduler") or {}).get("warmup_updates") or 0)


def describe(cfg, world: int, warmup: int) -> str:
    """Updates and warm-up of the run with the options `cfg` in `world` processes; of pretraining blocks and cost too."""
    from ..plugin.training_run import fitting_warmup, updates_by_epoch

    task = tasks.setup_task(cfg.task)
    examples, batches = count(cfg, task, world)
    updates = updates_by_epoch(cfg, batches)
    if updates is None:
        raise UserError("neither --max-epoch nor --max-update says where the run ends")
    shards, fits = len(examples), f"warm-up: {begun_warmup(cfg.checkpoint) or fitting_warmup(sum(updates), warmup)}"
    if cfg.task._name != "bang_pretraining":
        return f"expected: {sum(updates):,} updates, {len(updates)} epochs of {sum(examples):,} pairs\n{fits}"
    frequency = cfg.optimization.update_freq[0]
    whole = [math.ceil(count / frequency) for count in batches]
    seen = sum(examples[n % shards] * done / whole[n % shards] for n, done in enumerate(updates))
    a_block = operations(cfg.model, cfg.task, len(task.dictionary))
    hours = seen * a_block / GPU / world / 3600
    return (
        f"expected: {sum(updates):,} updates of {seen / sum(updates):,.0f} blocks, {len(updates)} epochs of a shard, "
        f"{shards} shard(s) with {sum(examples):,} blocks\n"
        f"cost: up to {seen * a_block:.1e} floating-point operations, {a_block:.1e} for a full block; {hours:,.1f} hours "
        f"if each of {world} GPU(s) does {GPU:.0e} a second\n{fits}"
    )


def main() -> None:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--world", type=int, default=1, help="processes that train together")
    own.add_argument("--warmup", type=int, default=1000, help="the longest warm-up")
    known, command = own.parse_known_args()
    logging.disable(logging.WARNING)

    parser = options.get_training_parser()
    parser.prog, parser.usage = "fairseq-train", argparse.SUPPRESS  # whose options they are; its usage is 300 lines
    args = options.parse_args_and_arch(parser, ["--user-dir", str(USER_DIR), *command])
    with exit_on_mistakes(parser.prog):
        print(describe(convert_namespace_to_omegaconf(args), known.world, known.warmup), flush=True)


if __name__ == "__main__":
    main()
