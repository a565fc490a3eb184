"""fairseq's command lines: published options that today's fairseq reads differently, and mistakes told in one line."""

import argparse
import dis
import importlib.util
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from types import TracebackType

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


PACKAGE = Path(__file__).resolve().parents[1]
_FRAME = re.compile(r'^ *File "(.+)", line \d+, in .+\n +(.+)$', flags=re.M)


def user_error_message(error: BaseException, traceback: TracebackType | None) -> str | None:
    """What to tell somebody whose mistake an error is; None for any other, whose traceback is worth having.

    A mistake is a ValueError or OSError that our own code raises on purpose, by a `raise` of its own: not
    one that a call inside our code fails with. A DataLoader's worker, a process pool and a spawned process
    hand their errors on with the traceback as text.
    """
    if isinstance(error, (ValueError, OSError)) and traceback is not None:
        while traceback.tb_next is not None:
            traceback = traceback.tb_next
        code = traceback.tb_frame.f_code
        raised = dis.opname[code.co_code[traceback.tb_lasti]] == "RAISE_VARARGS"
        if raised and PACKAGE in Path(code.co_filename).parents:
            return str(error)
    for text in (str(error), str(error.__cause__ or "").strip().removesuffix('"""')):
        *_, (path, line) = _FRAME.findall(text) or [("", "")]
        message = re.search(r"^(?:ValueError|OSError|FileNotFoundError): (.+)\s*\Z", text, flags=re.M)
        if message and line.startswith("raise ") and PACKAGE in Path(path).parents:
            return message[1]
    return None


def quiet_libraries() -> None:
    """Leaves out what today's Hydra and torch say of the way in which fairseq calls them: no user can mend it."""
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true but no accelerator")
    warnings.filterwarnings("ignore", module=r"hydra\b")
    warnings.filterwarnings("ignore", message=r"\s*'config' is validated against ConfigStore schema")
    logging.getLogger("hydra").setLevel(logging.WARNING)


def set_log_level() -> None:
    """In a command line of fairseq's own: LOGLEVEL counts, whatever one of fairseq's models set as it was imported."""
    if program().startswith("fairseq-"):
        logging.getLogger().setLevel(os.environ.get("LOGLEVEL", "INFO").upper())


def program() -> str:
    """The command that runs: "fairseq-train" also as `python -m fairseq_cli.train`."""
    script = Path(sys.argv[0])
    return f"fairseq-{script.stem}" if script.parent.name == "fairseq_cli" else script.name


def print_user_errors() -> None:
    """In a command line of fairseq's own: a user's mistake ends in one line, not below a traceback.

    With LOGLEVEL=DEBUG, the environment variable that fairseq reads, the traceback is shown all the same.
    """
    name = program()
    if not name.startswith("fairseq-") or os.environ.get("LOGLEVEL", "").upper() == "DEBUG":
        return
    if "hydra" in name:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints a traceback itself and nothing comes here
    show = sys.excepthook

    def tell(kind, error, traceback):
        mistake = user_error_message(error, traceback)
        if mistake is None:
            show(kind, error, traceback)
        else:
            print(f"{name}: error: {mistake}", file=sys.stderr)

    sys.excepthook = tell
