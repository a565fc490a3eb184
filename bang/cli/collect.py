"""Collects the hypotheses of a fairseq-generate or fairseq-interactive log, in the order of the input.

    fairseq-generate … > log
    bang collect log hypo --source tokenized/test.src

writes one line for each input sentence: its best hypothesis, or an empty line where the log has none.
"""

import argparse
import sys

from ..text.collect import collect

HELP = "the hypotheses of a fairseq-generate log, one line for each input sentence"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="output of fairseq-generate or fairseq-interactive, one run")
    parser.add_argument("output", metavar="OUT", help="where the hypotheses go, one line a sentence")
    count = parser.add_mutually_exclusive_group()
    count.add_argument(
        "--total",
        type=int,
        metavar="N",
        help="number of sentences of the input, if its last ones were skipped and are not in the log",
    )
    count.add_argument("--source", metavar="FILE", help="the tokenized input, to count its lines instead")
    parser.add_argument(
        "--fill", metavar="FILE", help="take the line of this file, such as the references, if the hypothesis is missing or empty"
    )
    parser.add_argument(
        "--closest-to",
        metavar="FILE",
        help="the tokenized references: of the hypotheses of --nbest N take the one closest to its line by BLEU, not the most "
        "probable",
    )
    parser.add_argument(
        "--pairs", metavar="FILE", help="write the lines of --source that have a hypothesis here; OUT leaves out the others too"
    )


def run(args: argparse.Namespace) -> None:
    sentences, missing, left_out = collect(args.log, args.output, args.total, args.source, args.fill, args.closest_to, args.pairs)
    filled = "" if args.fill is None else f", filled from {args.fill}"
    fewer = f"; {left_out} left out" if left_out else ""
    print(f"{sentences} sentences, {missing} of them without a hypothesis{filled}{fewer}", file=sys.stderr)
