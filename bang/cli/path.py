"""The folder of this package, for fairseq's commands:

fairseq-train processed --user-dir "$(bang path)" ...
"""

import argparse
from pathlib import Path

HELP = "the folder that --user-dir of fairseq's commands wants"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> None:
    print(Path(__file__).parents[1])
