"""Which precision a training takes. `python -m bang.recipes.precision [OPTION of fairseq-train ...]` prints the option to add.

A run that goes on from a checkpoint keeps the checkpoint's precision: its optimizer fits no other. A new run takes
--fp16 on a GPU. Of CPUs with bf16 instructions some multiply matrices twice as fast with them, others slower than in
float32, so the two are timed against each other. Where the options name a precision, nothing is added.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence

import torch

from ..errors import UserError

WORTH = 1.2
"""How much faster than float32 bf16 must multiply to pay: an update also copies between the two."""

OPTIMIZERS = {"amp": "amp", "memory-efficient-bf16": "half", "memory-efficient-fp16": "half", "bf16": "mixed", "fp16": "mixed"}
"""fairseq's options of precision, and which of them share the form of an optimizer's state.
--memory-efficient-fp16 sets --fp16 too."""


def matmul_seconds(dtype: torch.dtype) -> float:
    """Seconds of the product of a feed-forward layer, 2048 tokens, 384 to 1536; the best of some."""
    x, weight = torch.ones(2048, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)

    def once() -> float:
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(10))


def training_option(words: Sequence[str] = ()) -> str:
    """`--fp16`, `--bf16`, or nothing for float32 or where the words name a precision.

    Args:
        words: options of fairseq-train; --save-dir or --restore-file names the checkpoint to resume from.

    Raises:
        ValueError: the words name a precision whose optimizer cannot go on from the checkpoint.
    """
    args = _parse(words)
    asked, gpu = _named(vars(args)), args.gpus > 0 if args.gpus is not None else torch.cuda.is_available() and not args.cpu
    path = args.restore_file
    if path == "checkpoint_last.pt":  # fairseq's default: the one in --save-dir
        path = os.path.join(args.save_dir, path) if args.save_dir else ""
    if os.path.isfile(path) and not args.reset_optimizer:
        saved, path = _saved(path)
        if asked and OPTIMIZERS[asked] != OPTIMIZERS.get(saved):
            raise UserError(
                f"--{asked}: {path} was trained with {f'--{saved}' if saved else 'float32'}, whose optimizer fits no other: "
                "leave the option out, or give --reset-optimizer, which begins with a new optimizer"
            )
        option = "bf16" if saved == "fp16" and not gpu else saved  # float16 is for GPUs; both have the same optimizer
    elif gpu:
        option = "fp16"
    else:
        option = "bf16" if not asked and matmul_seconds(torch.float32) > WORTH * matmul_seconds(torch.bfloat16) else ""
    return f"--{option}" if option and not asked else ""


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gpus", type=int)  # of our scripts: how many GPUs train, where that is known
    parser.add_argument("--save-dir")
    parser.add_argument("--restore-file", default="checkpoint_last.pt")
    for flag in ("reset-optimizer", "cpu", *OPTIMIZERS):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_known_args(list(words))[0]


def _saved(path: str) -> tuple[str, str]:
    """The precision that a checkpoint was trained with, one of OPTIMIZERS or nothing for float32; and which one that is."""
    from ..safety import checkpoints, files  # brings fairseq

    path = checkpoints.resumable(path)
    state = files.read(path, mmap=True)
    return _named((state.get("cfg") or {}).get("common") or vars(state.get("args") or argparse.Namespace())), path


def _named(settings: Mapping) -> str:
    return next((name for name in OPTIMIZERS if settings.get(name.replace("-", "_"))), "")


if __name__ == "__main__":
    try:
        print(training_option(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"bang.recipes.precision: error: {error}")
