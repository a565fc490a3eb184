"""Fine-tunes BANG on pairs with the published hyper-parameters, from --load-from-pretrained-model FILE where it is given.

    bang finetune --mode nar DATA SAVE_DIR [OPTION of fairseq-train ...]

    --mode ar        token by token; 10 epochs
           nar       all tokens at once; 50 epochs, a checkpoint every 5
           semi-nar  blocks of 4 tokens (--block-size); epochs as nar
           mixed     a third of the updates each of ar, nar and semi-nar; epochs as nar
           n-stream  9 streams (--ngram), each with 0.7 of the weight of the one before; epochs as ar. Decodes ar, semi-nar
                     with blocks of up to 9 and --commit-threshold, and speculative
           all       ar, semi-nar with blocks of 6 after any token, and nar, all in every update; epochs as nar.
                     Decodes every mode

DATA is a folder that fairseq-preprocess wrote. An OPTION such as --max-epoch 5 overrides the recipe's. ar and nar are the
published recipes. --warmup-updates is the published 1000, or a tenth of the updates if that is less.
"""

import argparse
import os

from ..recipes import training

HELP = "fine-tune with the published hyper-parameters"
LAUNCH = """
Trains on all visible GPUs of this node, or on the CPU if there are none; under torchrun with several GPUs or nodes. Precision:
--fp16 on GPUs, --bf16 on the CPU of a single node if that is faster than float32. The same command given again continues a
stopped run, in the precision that it began with. TensorBoard's log goes to SAVE_DIR/tensorboard.

environment (defaults)
  GPUS (those visible)       GPUs of this node
  NODES (1)                  nodes; give the same command on each, with its own NODE_RANK
  NODE_RANK (0)              number of this node
  MASTER_ADDR (127.0.0.1)    address of node 0
  MASTER_PORT (29500)        a free port of node 0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = LAUNCH
    parser.add_argument("--mode", required=True, metavar="MODE", help=f"what to train: {', '.join(training.TRAINING_OPTIONS)}")
    add_launch_arguments(parser)


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """What `bang pretrain` takes as well."""
    parser.add_argument("--dry-run", action="store_true", help="print the command line of fairseq-train, and train nothing")
    parser.add_argument("data", metavar="DATA", help="folder that fairseq-preprocess wrote")
    parser.add_argument("save_dir", metavar="SAVE_DIR", help="folder for the checkpoints")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="OPTION", help="options of fairseq-train; they override the recipe's"
    )


def run(args: argparse.Namespace) -> None:
    machines = training.Machines.here(os.environ)
    options = training.finetuning(args.mode, args.data, args.save_dir, args.options)
    if not args.dry_run:
        options = training.with_warmup(options, training.WARMUP["finetune"], machines)
    training.launch(options, machines, args.dry_run)
