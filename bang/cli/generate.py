"""Generates a text for each line of raw text on stdin: one line out for each line in.

    bang generate model --mode nar < raw.txt > out.txt

MODEL is a folder of `bang pack` or `bang export`, or a checkpoint of fairseq-train. An empty line gives an empty line.

Texts are written as they are ready. A line that cannot be served (not UTF-8, longer than the model takes) ends the command:
one line on stderr names it, the status is 1, and stdout holds the texts of the lines before it; to go on, begin behind them.

With --on-error blank its text is blank, with --json its "error" says why, and the command goes on: at the end stderr lists
such lines with their reasons, and the status is 3. Status 0 means that every line has been served.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator

from ..decoding.link import NO_LINK
from ..text.files import CompressedError, decode_line, standard_input, standard_output
from ._options import add_generation_arguments, add_model_arguments, generation_options, load

BLANKS = 3
"""Status where all lines are out, and some are blank because they could not be served."""

HELP = "raw text to generated text, one line out for each line in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_generation_arguments(parser)
    parser.add_argument(
        "--truncate-source", action="store_true", help="cut lines that are longer than the model takes; else they are an error"
    )
    parser.add_argument("--keep-repeats", action="store_true", help="keep immediate repeats of NAR and semi-NAR texts")
    parser.add_argument(
        "--on-error",
        choices=("stop", "blank"),
        default="stop",
        help="what to do with a line that cannot be "
        "served: stop, or write a blank line and list it at the end (default: %(default)s)",
    )
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="word pieces, padding included, of a batch")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: text, word pieces, their log-probabilities and the decoder's pass that gave each",
    )


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    stdin, stdout = standard_input(), standard_output()
    model = load(args)
    undecodable: dict[int, str] = {}
    is_to_stop = args.on_error == "stop"

    def lines() -> Iterator[str]:
        for number, line in enumerate(stdin, start=1):
            try:
                text = decode_line(line.removesuffix(b"\n"), "stdin", number)
            except CompressedError:
                raise
            except ValueError as error:
                if is_to_stop:
                    raise
                undecodable[number], text = str(error), ""
            yield text

    options = generation_options(args)
    if args.link not in (None, NO_LINK):
        options["link"] = True  # a file that is named is to be used
    batching = {"batch_tokens": args.batch_tokens} if args.batch_tokens is not None else {}
    if sys.stdin.isatty():
        batching["read_ahead"] = 1  # somebody waits for the answer
    found = model.generate(
        lines(), details=True, truncate=args.truncate_source, drop_repeats=False if args.keep_repeats else None,
        on_error="raise" if is_to_stop else "blank", **options, **batching,
    )  # fmt: skip
    blank: dict[int, str] = {}
    total = 0
    bar = tqdm(found, unit=" texts", disable=True if sys.stdin.isatty() else None)
    for total, generation in enumerate(bar, start=1):
        if total in undecodable:
            generation = dataclasses.replace(generation, error=undecodable.pop(total))
        if generation.error is not None:
            blank[total] = generation.error
        text = json.dumps(dataclasses.asdict(generation), ensure_ascii=False) if args.json else generation.text
        stdout.write(f"{text}\n".encode())
        if sys.stdin.isatty():
            sys.stdout.flush()
    if blank:
        sys.stdout.flush()
        for number, error in blank.items():
            print(f"line {number} left blank: {error}", file=sys.stderr)
        lines_are = "line is" if len(blank) == 1 else "lines are"
        print(f"bang generate: {len(blank)} of {total} {lines_are} blank, for the reasons above", file=sys.stderr)
        sys.exit(BLANKS)
