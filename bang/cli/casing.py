"""Makes the table that gives texts capitals: how the words of TARGETS are written.

    bang casing raw/train.tgt --sources raw/train.src --out checkpoints/casing.tsv
    bang generate checkpoints/checkpoint_best.pt --mode nar < texts

TARGETS are raw text, the training targets; their sources add names that the targets lack. casing.tsv beside a checkpoint or in
a model's folder (`bang pack --targets`) is used by default. Texts are then written as with --case source: a word takes the form
that it has in its source, else the most frequent one in the table. Nothing but case changes.
"""

import argparse
import os
import sys
from itertools import chain

from ..text.casing import Casing
from ..text.files import read_lines, refuse_overwriting

HELP = "target texts to the table that gives texts capitals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="+", metavar="TARGETS", help="texts to count, one a line: the training targets")
    parser.add_argument("--sources", nargs="+", default=[], metavar="FILE", help="the training sources, raw")
    parser.add_argument("--out", required=True, metavar="FILE", help="the table to write")


def run(args: argparse.Namespace) -> None:
    refuse_overwriting(args.out, [*args.targets, *args.sources])
    targets, sources = (chain.from_iterable(map(read_lines, paths)) for paths in (args.targets, args.sources))
    table = Casing.count(targets, sources)
    table.save(args.out)
    words = len(table.inside.keys() | table.first.keys())
    print(f"{args.out}: {words:,} words, {len(table.pairs):,} pairs; {os.path.getsize(args.out) / 1e6:.2f} MB", file=sys.stderr)
