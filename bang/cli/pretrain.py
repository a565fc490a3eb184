"""Pretrains BANG on running text: base size, blocks of 512 word pieces, in every 64 a span of 9 hidden, 9 streams, 35 epochs.

    bang pretrain DATA SAVE_DIR [OPTION of fairseq-train ...]

DATA are folders that fairseq-preprocess --only-source wrote, separated by colons, one an epoch in turn. An OPTION overrides the
recipe's. It prints its cost before it starts. The optimizer is the published one of fine-tuning. Our own choices, since not
published: --lr 0.0003, --warmup-updates 10000 or a tenth of the updates if that is less, and the numbers of blocks below.
"""

import argparse
import os

from ..recipes import training
from .finetune import LAUNCH, add_launch_arguments

HELP = "pretrain with the published hyper-parameters"
BLOCKS = f"""
  BLOCKS ({training.BLOCKS})              blocks of an update, over all GPUs
  BLOCKS_AT_ONCE ({training.BLOCKS_AT_ONCE})         blocks of a GPU at a time; --update-freq makes up the rest of BLOCKS
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = LAUNCH.rstrip() + BLOCKS
    add_launch_arguments(parser)


def run(args: argparse.Namespace) -> None:
    machines = training.Machines.here(os.environ)
    options = training.pretraining(args.data, args.save_dir, args.options, machines.world, os.environ)
    if not args.dry_run:
        options = training.with_warmup(options, training.WARMUP["pretrain"], machines, always_tell=True)
    training.launch(options, machines, args.dry_run)
