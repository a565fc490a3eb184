"""fairseq's command lines: published options that today's fairseq reads differently, and mistakes as one line."""

import argparse
import importlib.util
import logging
import os
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import torch
from fairseq.optim.lr_scheduler import LR_SCHEDULER_DATACLASS_REGISTRY

from ..errors import UserError, shows_tracebacks, user_error_message
from ..processes import end_with_parent
from . import workers


def add_min_lr(parser: argparse.ArgumentParser) -> None:
    """Adds fairseq 0.9's --min-lr, which has become --stop-min-lr or an option of some schedulers."""
    parser.add_argument(
        "--min-lr",
        type=float,
        default=argparse.SUPPRESS,
        help="stop training at this learning rate; --stop-min-lr under its name in fairseq 0.9",
    )


def settle_options(args: argparse.Namespace) -> None:
    """Finishes a parsed training command line, in place.

    --min-lr means --stop-min-lr unless the scheduler has an option of that name. --bf16, which
    fairseq takes for a sign of a TPU, runs on GPUs and CPUs where torch_xla is not installed. Under torchrun CPUs train
    together by gloo; fairseq would divide by the number of GPUs.
    """
    scheduler = LR_SCHEDULER_DATACLASS_REGISTRY.get(getattr(args, "lr_scheduler", None))
    if hasattr(args, "min_lr") and not hasattr(scheduler, "min_lr"):
        args.stop_min_lr = args.min_lr
    if getattr(args, "bf16", False) and importlib.util.find_spec("torch_xla") is None:
        args.tpu = False
    if getattr(args, "fp16", False) and not torch.cuda.is_available():
        raise UserError("--fp16: needs a GPU that torch can use, and there is none: give --bf16, or leave it out")
    by_torchrun = {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"} <= os.environ.keys()
    on_cpu = getattr(args, "cpu", False) or not torch.cuda.is_available()
    if by_torchrun and on_cpu and getattr(args, "distributed_init_method", None) is None:
        args.distributed_init_method, args.distributed_no_spawn, args.distributed_backend = "env://", True, "gloo"
        args.distributed_world_size, args.distributed_rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])


def quiet_libraries() -> None:
    """Hides the warnings of Hydra and torch about the way fairseq calls them: users cannot act on them."""
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true but no accelerator")
    warnings.filterwarnings("ignore", module=r"hydra\b")
    warnings.filterwarnings("ignore", message=r"\s*'config' is validated against ConfigStore schema")
    logging.getLogger("hydra").setLevel(logging.WARNING)


def end_workers_of_preprocess() -> None:
    """In fairseq-preprocess: its workers end when it is killed, where they would wait for ever."""
    if program() == "fairseq-preprocess":
        os.register_at_fork(after_in_child=partial(end_with_parent, os.getpid()))


def set_log_level() -> None:
    """In a command line of fairseq's own: LOGLEVEL counts, whatever one of fairseq's models set as it was imported."""
    if program().startswith("fairseq-"):
        logging.getLogger().setLevel(os.environ.get("LOGLEVEL", "INFO").upper())


def program() -> str:
    """The command that runs: "fairseq-train" also as `python -m fairseq_cli.train`."""
    script = Path(sys.argv[0])
    return f"fairseq-{script.stem}" if script.parent.name == "fairseq_cli" else script.name


def describe_refusal(error: BaseException) -> str | None:
    """One line for what fairseq itself refuses, by an assert or a bare exception that says why; None for any other error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    place = frames[-1].f_globals.get("__package__") or "" if frames else ""
    said = str(error).strip().splitlines()
    if (
        place.partition(".")[0] not in ("fairseq", "fairseq_cli")
        or type(error) not in (AssertionError, Exception, ValueError)
        or not said
    ):
        return None
    return f"{said[0]}; BANG_TRACEBACK=1 shows where"


def print_user_errors() -> None:
    """In a command line of fairseq's own: a user's mistake ends in one line, not below a traceback.

    With BANG_TRACEBACK=1, or LOGLEVEL=DEBUG, which fairseq reads, the traceback is shown all the same.
    """
    name = program()
    if not name.startswith("fairseq-") or shows_tracebacks():
        return
    if "hydra" in name:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints a traceback itself and nothing comes here
    show = sys.excepthook

    def print_mistake(kind, error, trace):
        if isinstance(error, KeyboardInterrupt):  # the status says it
            return
        mistake = user_error_message(error) or workers.describe_loss(error) or describe_refusal(error)
        if mistake is None:
            show(kind, error, trace)
        else:
            print(f"{name}: error: {mistake}", file=sys.stderr)

    sys.excepthook = print_mistake
