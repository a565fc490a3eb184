"""Draws how much of the past each prediction sees, the paper's one idea: as text, and with --out as a picture.

    bang visibility --mode semi-nar --length 8
    bang visibility --mode ar semi-nar nar --length 8 --out visibility.png
    bang visibility --ngram 3 --length 6

A line is a slot, a mask whose output is a prediction. It sees the real tokens that are dark on the left (<s> is the start
symbol) and the slots that are marked on the right, by the tokens that they predict. --ngram draws pretraining's streams.
"""

import argparse
import importlib.util

from ..errors import UserError
from ..modes import MODES
from ..packages import install_command
from ..text.files import replacing
from ..visibility import BLOCK_SIZE

HELP = "a drawing of what each prediction sees in a mode"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--mode", nargs="+", metavar="MODE", help=f"modes to draw: {', '.join(MODES)} (default: all but speculative)"
    )
    what.add_argument("--ngram", type=int, metavar="N", help="draw n-stream pretraining with N streams instead")
    parser.add_argument(
        "--length", type=int, default=8, metavar="N", help="tokens of the text, its end included (default: %(default)s)"
    )
    parser.add_argument("--block-size", type=int, default=BLOCK_SIZE, metavar="K", help="of semi-NAR (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write a picture: .png, .svg or .pdf (default: text on stdout)")


def run(args: argparse.Namespace) -> None:
    from ..inference import drawing

    if args.ngram is not None:
        drawings = [drawing.of_streams(args.ngram, args.length)]
    else:
        names = args.mode or [name for name in MODES if MODES[name].trained_as is None]
        drawings = [drawing.of_mode(name, args.length, args.block_size) for name in names]
    if args.out is None:
        print("\n".join(map(drawing.as_text, drawings)), end="")
        return
    kind = drawing.picture_kind(args.out)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"a picture needs matplotlib, which is not installed: {install_command('matplotlib', 'demo')}")
    with replacing(args.out) as file:
        drawing.draw(drawings, file, kind)
