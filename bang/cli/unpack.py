"""Turns a model folder back into a checkpoint that fairseq's commands take.

    bang unpack model checkpoint.pt
    fairseq-generate processed --path checkpoint.pt --user-dir bang --task translation_bang

It has no optimizer state: a run that resumes from it begins with a new one. A link stays in the folder: give it with --link, or
copy it beside the checkpoint.
"""

import argparse

from ..inference.load import import_heavy

HELP = "a folder of bang pack back to a checkpoint for fairseq's commands"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="made by bang pack")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the file to write")


def run(args: argparse.Namespace) -> None:
    pack, trained_model = import_heavy("bang.deploy.pack"), import_heavy("bang.inference.trained_model")
    pack.write_checkpoint(trained_model.read_folder(args.folder), args.checkpoint)
