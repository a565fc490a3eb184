"""Generates a text for each line of raw text on stdin: one line out for each line in.

    bang generate model --mode nar < raw.txt > out.txt

MODEL is a folder of `bang pack` or `bang export`, or a checkpoint of fairseq-train. An empty line gives an empty line.

Texts are written as they are ready. A line that cannot be served (not UTF-8, longer than the model takes) ends the command:
one line on stderr names it, the status is not 0, and stdout holds the texts of lines before it, in order and whole, but maybe
not of all of them. Take the output for complete only where the status is 0; to go on, begin behind the lines that are out.
"""

import argparse
import dataclasses
import json
import sys

from ..text.files import decode_line
from ._options import add_generation_arguments, add_model_arguments, generation_options, load

HELP = "raw text to generated text, one line out for each line in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_generation_arguments(parser)
    parser.add_argument("--truncate-source", action="store_true", help="cut lines that are longer than the model takes; "
                        "else they are an error")
    parser.add_argument("--keep-repeats", action="store_true", help="keep immediate repeats of NAR and semi-NAR texts")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="word pieces, padding included, of a batch")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: text, word pieces, their "
                        "log-probabilities and the decoder's pass that gave each")


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    model = load(args)
    lines = (decode_line(line.removesuffix(b"\n"), "stdin", number) for number, line in enumerate(sys.stdin.buffer, start=1))
    batching = {"batch_tokens": args.batch_tokens} if args.batch_tokens is not None else {}
    if sys.stdin.isatty():
        batching["read_ahead"] = 1  # somebody waits for the answer
    found = model.generate(
        lines, details=True, truncate=args.truncate_source, drop_repeats=False if args.keep_repeats else None,
        **generation_options(args), **batching,
    )  # fmt: skip
    for generation in tqdm(found, unit=" texts", disable=True if sys.stdin.isatty() else None):
        text = json.dumps(dataclasses.asdict(generation), ensure_ascii=False) if args.json else generation.text
        sys.stdout.buffer.write(f"{text}\n".encode())
        if sys.stdin.isatty():
            sys.stdout.flush()
