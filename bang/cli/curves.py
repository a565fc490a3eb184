"""Learning curves as a picture, from what fairseq-train printed, in any --log-format.

    fairseq-train … --log-interval 50 2>&1 | tee train.log
    bang curves train.log curves.png
    bang curves ar.log mixed.log curves.png --names AR mixed

On the left the training loss, on the right the validation loss of each mode that the run trains, both in bits, by update.
"""

import argparse
import itertools
from pathlib import Path

from ..errors import UserError
from ..modes import trained
from ..packages import install_command
from ..text.files import refuse_overwriting, replacing
from ..text.training_log import Curves, read_curves

HELP = "learning curves as a picture, from fairseq-train's log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", nargs="+", metavar="LOG", help="what fairseq-train printed; several runs are compared")
    parser.add_argument("picture", metavar="PNG", help="where the picture goes; .svg and .pdf work too")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the runs (default: their files')")


def run(args: argparse.Namespace) -> None:
    if args.names is not None and len(args.names) != len(args.logs):
        raise UserError(f"--names: {len(args.names)} for {len(args.logs)} logs: give one for each")
    refuse_overwriting(args.picture, args.logs)
    names = args.names or [Path(log).stem for log in args.logs]
    runs = {name: read_curves(log) for name, log in zip(names, args.logs, strict=True)}
    if len(runs) < len(names):
        raise UserError("two runs have the same name: give --names")
    draw(runs, args.picture)


def draw(runs: dict[str, Curves], picture: str) -> None:
    """Draws the runs' curves into a file whose ending says what kind of picture it is.

    Raises:
        ValueError: matplotlib is missing, or does not know the ending.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError(f"pictures need the package matplotlib: {install_command('matplotlib', 'recipes')}") from None
    figure = Figure(figsize=(11, 4), layout="constrained")
    ending = Path(picture).suffix.removeprefix(".")
    if ending not in figure.canvas.get_supported_filetypes():
        raise UserError(f"{picture}: no ending of a picture: take .png, .svg or .pdf")
    train, valid = figure.subplots(1, 2)
    colours: dict[str, str] = {}  # one for each mode, a style of line for each run
    for run, style in zip(runs, itertools.cycle(("-", "--", ":", "-."))):
        curves = runs[run]
        for name, curve in curves.items():
            kind, metric = name.split(" ", 1)
            mode = metric.removesuffix("loss").removesuffix("_")
            if not metric.endswith("loss") or metric in ("nll_loss", "best_loss") or kind == "train":
                continue  # "train" is the mean of an epoch, which "train_inner" has in parts
            if not mode and any(curves.get(f"{kind} {only}_loss") == curve for only in trained()):
                continue  # one mode is all that the run trains
            label = ", ".join([run] * (len(runs) > 1) + [mode or "all modes"])
            colour, mark = colours.setdefault(mode, f"C{len(colours)}"), "." if kind == "valid" else ""
            axes = valid if kind == "valid" else train
            axes.plot(*zip(*curve.items()), label=label, color=colour, linestyle=style, marker=mark, linewidth=1)
    for axes, title in ((train, "training"), (valid, "validation")):
        axes.set(title=title, xlabel="updates", ylabel="loss, bits a token")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with replacing(picture) as file:
        figure.savefig(file, format=ending, dpi=120)
