"""Cleans up generated word pieces: one line in, one line out. Also `python post_processed_nar.py`, the published name.

    bang clean-up hypo hypo.dedup
    bang clean-up --detokenize hypo hypo.txt
    bang clean-up --detokenize --keep-repeats ar.hypo ar.txt

The first is the published clean-up: it cuts each line at its [SEP], drops immediate repeats and joins the word pieces to words,
so `c + +` becomes `c +`. The second gives text for people: `c++`, `node.js`, `(http)`.
"""

import argparse
from functools import partial

from ..errors import UserError
from ..text import files
from ..text.cleanup import clean_up, to_text

HELP = "word pieces that a model wrote to text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="hypotheses, word pieces joined by blanks, one a line")
    parser.add_argument("output", metavar="OUT", help="where the text goes, one line for each line of IN")
    parser.add_argument("--published", action="store_true", help="the published clean-up, to the letter: the default")
    parser.add_argument(
        "--detokenize",
        action="store_true",
        help="write blanks where people write them, and drop no repeat that belongs to `c++` or `::`",
    )
    parser.add_argument(
        "--keep-repeats", action="store_true", help="drop no repeats: for AR hypotheses, which seldom repeat by mistake"
    )


def run(args: argparse.Namespace) -> None:
    if args.published and (args.detokenize or args.keep_repeats):
        raise UserError("--published is the clean-up without --detokenize and --keep-repeats: give one or the others")
    clean = partial(to_text if args.detokenize else clean_up, keep_repeats=args.keep_repeats)
    files.refuse_overwriting(args.output, [args.input])
    with files.replacing(args.output) as output:
        line = None
        for line in files.read_lines(args.input):
            output.write(f"{clean(line)}\n".encode())
        if line is None:
            raise UserError(f"{args.input}: empty: give a file with one hypothesis a line; did the generation fail?")
