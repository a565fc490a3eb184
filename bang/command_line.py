"""Where today's fairseq reads a published command line differently, settled."""

import argparse
import importlib.util

from fairseq.optim.lr_scheduler import LR_SCHEDULER_DATACLASS_REGISTRY


def add_min_lr(parser: argparse.ArgumentParser) -> None:
    """Adds fairseq 0.9's --min-lr, which has become --stop-min-lr or an option of some schedulers."""
    parser.add_argument(
        "--min-lr",
        type=float,
        default=argparse.SUPPRESS,
        help="stop training when the learning rate reaches this minimum; the name that --stop-min-lr had in fairseq 0.9",
    )


def settle_options(args: argparse.Namespace) -> None:
    """Finishes a parsed training command line, in place.

    --min-lr means --stop-min-lr unless the scheduler has an option of that name. --bf16, which
    fairseq takes for a sign of a TPU, runs on GPUs and CPUs where torch_xla is not installed.
    """
    scheduler = LR_SCHEDULER_DATACLASS_REGISTRY.get(getattr(args, "lr_scheduler", None))
    if hasattr(args, "min_lr") and not hasattr(scheduler, "min_lr"):
        args.stop_min_lr = args.min_lr
    if getattr(args, "bf16", False) and importlib.util.find_spec("torch_xla") is None:
        args.tpu = False
