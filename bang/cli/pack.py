"""Turns a checkpoint of fairseq-train into a folder that holds all that generation needs.

    bang pack checkpoints/checkpoint_best.pt model
    bang pack checkpoints/checkpoint_best.pt model --targets raw/train.tgt --sources raw/train.src   # its texts get capitals
    bang pack --last 5 checkpoints model      # the mean of a run's last five checkpoints
    bang pack run/checkpoint_last.pt model --average-with start.pt   # the mean with what the run started from
    bang pack --format hf model for-transformers   # a folder for Hugging Face's transformers; without --format: back

The folder holds weights without the optimizer (model.safetensors), sizes, trained modes and generation defaults
(config.json), the vocabulary and a card to fill in (README.md). Options of generation become the model's defaults.
A folder for transformers holds the same, to be read by `AutoModelForSeq2SeqLM` and `AutoTokenizer` after `import bang.hf`.
"""

import argparse
import dataclasses
import os
from itertools import chain

from ..errors import UserError
from ..inference.load import import_heavy
from ..safety.folder import is_for_transformers
from ..text.casing import Casing
from ..text.files import read_lines
from ._options import (
    add_casing_argument,
    add_dtype_argument,
    add_generation_arguments,
    add_link_argument,
    generation_options,
)

HELP = "a checkpoint to a folder that holds all that generation needs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="of fairseq-train, or a folder of bang pack; with --last, the folder of a run"
    )
    parser.add_argument("folder", metavar="FOLDER", help="the folder to make")
    parser.add_argument(
        "--format", choices=("bang", "hf"), default="bang", help="of the folder: ours, or Hugging Face's (default: %(default)s)"
    )
    parser.add_argument("--last", type=int, metavar="N", help="average the last N checkpoints of the run")
    parser.add_argument(
        "--average-with",
        metavar="CHECKPOINT",
        action="append",
        default=[],
        help="average with this one too, such as the model that the run started from; may be given again",
    )
    parser.add_argument(
        "--vocab",
        metavar="FILE",
        help="the vocabulary that the data was binarized with (default: "
        "dict.*.txt beside the checkpoint, or the published vocab.txt)",
    )
    add_dtype_argument(parser, "precision of the weights")
    add_link_argument(parser)
    add_casing_argument(parser)
    parser.add_argument(
        "--targets", nargs="+", metavar="FILE", help="the training targets, raw: makes the table that gives texts capitals"
    )
    parser.add_argument(
        "--sources", nargs="+", default=[], metavar="FILE", help="with --targets: their sources, for a better table"
    )
    add_generation_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if args.targets and args.casing is not None:
        raise UserError("--targets makes what --casing names: give one of them")
    if args.sources and not args.targets:
        raise UserError("--sources: only with --targets, whose sources they are")
    pack = import_heavy("bang.deploy.pack")
    form = import_heavy("bang.hf.folder").TRANSFORMERS if args.format == "hf" else pack.OURS
    if args.last is None and not args.average_with and os.path.isdir(args.checkpoint):
        paths, model = [args.checkpoint], _read_folder(args)
    else:
        paths = [args.checkpoint]
        if args.last is not None:
            if args.last < 1:
                raise UserError(f"--last {args.last}: give 1 or more")
            paths = pack.last_checkpoints(args.checkpoint, args.last)
        paths = [*args.average_with, *paths]  # all but the weights comes from the last
        model = pack.read_average(paths, args.vocab, args.link, args.casing)
    if args.targets:
        targets, sources = (chain.from_iterable(map(read_lines, paths)) for paths in (args.targets, args.sources))
        model = dataclasses.replace(model, casing=Casing.count(targets, sources))
    pack.write_folder(model, args.folder, args.dtype, generation_options(args), paths, form)


def _read_folder(args: argparse.Namespace):
    """The model of a folder, ours or Hugging Face's."""
    if args.vocab is not None:
        raise UserError(f"{args.checkpoint}: brings its own vocabulary; give no other")
    if is_for_transformers(args.checkpoint):
        return import_heavy("bang.hf.folder").read_folder(args.checkpoint, args.link, args.casing)
    return import_heavy("bang.inference.trained_model").read_folder(args.checkpoint, args.link, args.casing)
