"""Generates a text for each line or row of an input: one out for each one in, in order.

    bang generate model --mode nar < raw.txt > out.txt
    bang generate model --mode nar --input in.jsonl.gz --output out.parquet --output-column synopsis --workers 4

MODEL is a folder of `bang pack` or `bang export`, or a checkpoint of fairseq-train. An empty line gives an empty line.

A file's ending says its format: .jsonl, .csv, .tsv and .parquet are tables, others plain lines; .gz and .zst are compressed. The
column --input-column of a table is read. An output table has all columns and --output-column with the texts; plain lines hold
only the texts.

Texts are written as they are ready. A file of --output is NAME.part until it is complete; --resume continues it. A line that
fails (not UTF-8, longer than the model takes, not JSON) ends the command: one line on stderr names it, the status is 1, and the
texts of the lines before it are written.

With --on-error blank its text is blank (with --json its "error" says why), and the command continues: at the end stderr lists
such lines with their reasons, and the status is 3. Status 0 means that no line failed.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..decoding.link import LINK_FILE, NO_LINK
from ..errors import UserError
from ..options import check_number
from ..text.casing import CASING_FILE, NO_CASING
from ..text.files import StrPath, read_lines, refuse_overwriting, standard_output
from ..text.table_input import FORMATS, JSONL, LINES, TEXT, Row, TableInput
from ..text.table_output import GENERATED, TableOutput
from ..text.unfinished import Piped, Unfinished
from ._options import add_generation_arguments, add_model_arguments, generation_options, load, load_arguments

BLANKS = 3
"""Exit status if all lines are written, and some are blank because they failed."""

MOST_LISTED = 1000
"""Blank lines that are listed with their reasons; further ones are only counted."""

HELP = "raw text to generated text, one line or row out for each one in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_generation_arguments(parser)
    parser.add_argument("--input", default="-", metavar="FILE", help="what to read (default: stdin)")
    parser.add_argument("--output", default="-", metavar="FILE", help="what to write (default: stdout)")
    for side in ("input", "output"):
        parser.add_argument(f"--{side}-format", choices=FORMATS, help="default: by the file's ending; plain lines for a pipe")
    parser.add_argument("--input-column", metavar="NAME", help=f"a table's column to generate from (default: {TEXT})")
    parser.add_argument(
        "--output-column", metavar="NAME", help=f"a table's column for the generated texts (default: {GENERATED})"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, each with the model and --threads threads"
    )
    parser.add_argument("--resume", action="store_true", help="continue the unfinished --output of an earlier run")
    parser.add_argument(
        "--truncate-source", action="store_true", help="cut lines that are longer than the model takes; else they are an error"
    )
    parser.add_argument("--keep-repeats", action="store_true", help="keep immediate repeats of NAR and semi-NAR texts")
    parser.add_argument(
        "--on-error",
        choices=("stop", "blank"),
        default="stop",
        help="what to do with a line that fails: stop, or write a blank line and list it at the end (default: %(default)s)",
    )
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="word pieces of a batch, padding included")
    parser.add_argument(
        "--json",
        action="store_true",
        help="for each text a JSON object: the line's number, text, word pieces, their log-probabilities and the decoder's pass "
        'that gave each, from 1; with --nbest the other texts in "others"',
    )
    parser.add_argument("--prefix", default="", metavar="TEXT", help="what every text begins with; not in NAR")
    parser.add_argument(
        "--prefix-file", metavar="FILE", help="what each text begins with, line by line with the input; empty lines for none"
    )


def run(args: argparse.Namespace) -> None:
    check_number("workers", args.workers, least=1)
    if args.resume and "-" in (args.input, args.output):
        raise UserError("--resume needs files to go on with: give --input and --output")
    with TableInput(args.input, args.input_format, args.input_column) as source:
        with _open_output(args, source) as output:
            blanks = _generate(args, source, output)
            output.finish()
    if blanks["count"]:
        what = "line" if source.format == LINES else "row"
        for number, error in blanks["listed"]:
            print(f"{what} {number} left blank: {error}", file=sys.stderr)
        lines_are = f"{what} is" if blanks["count"] == 1 else f"{what}s are"
        reasons = "for the reasons above" if blanks["count"] == len(blanks["listed"]) else "the first for the reasons above"
        print(f"bang generate: {blanks['count']} of {output.rows} {lines_are} blank, {reasons}", file=sys.stderr)
        sys.exit(BLANKS)


def _generate(args: argparse.Namespace, source: TableInput, output: Piped | Unfinished) -> dict[str, Any]:
    """Generates for the rows that are not written yet. Returns the number of blank ones, and the first with their reasons."""
    from tqdm import tqdm

    if (args.nbest or 1) > 1 and not args.json:
        raise UserError(f"--nbest {args.nbest}: give --json too, whose rows have room for several texts")
    if args.prefix and args.prefix_file:
        raise UserError("--prefix and --prefix-file: give one of them")
    if args.prefix_file and args.workers > 1:
        raise UserError("--prefix-file with --workers: workers do not read it; leave out one of them")
    waiting: deque[Row] = deque()  # read, but not written yet
    done = output.rows

    def texts() -> Iterator[str]:
        for row in itertools.islice(source, done, None):
            waiting.append(row)
            yield row.text

    generate = _generator(args, done + 1)
    blanks = output.notes.setdefault("blanks", {"count": 0, "listed": []})
    total = source.count() if sys.stderr.isatty() else None
    with contextlib.closing(generate(texts())) as found:  # an error ends its processes
        bar = tqdm(found, unit=" texts", total=total, initial=done, disable=True if _is_typed(args) else None)
        for number, generation in enumerate(bar, start=done + 1):
            row = waiting.popleft()
            if row.error is not None:
                generation = dataclasses.replace(generation, error=row.error)
            if generation.error is not None:
                if args.on_error == "stop":
                    raise UserError(generation.error)
                blanks["count"] += 1
                if blanks["count"] <= MOST_LISTED:
                    blanks["listed"].append((number, generation.error))
            output.write(row, {"line": number, **dataclasses.asdict(generation)} if args.json else generation.text)
    return blanks


def _generator(args: argparse.Namespace, first: int) -> Callable[[Iterator[str]], Any]:
    """A function that generates for an iterator of texts, in this process or in several; `first`: the first text's number."""
    options = generation_options(args)
    if args.link not in (None, NO_LINK):
        options["link"] = True  # a named file must have an effect
    if args.batch_tokens is not None:
        options["batch_tokens"] = args.batch_tokens
    options |= dict(truncate=args.truncate_source, drop_repeats=False if args.keep_repeats else None, prefix=args.prefix)
    if args.prefix_file:
        options["prefix"] = itertools.islice(read_lines(args.prefix_file), first - 1, None)
    if args.workers > 1:
        from ..inference import cpu, workers

        arguments = load_arguments(args)
        arguments["threads"] = args.threads or max(cpu.count() // args.workers, 1)
        return functools.partial(
            workers.generate, load=arguments, options=options, workers=args.workers, first=first, details=args.json
        )
    if _is_typed(args):
        options["read_ahead"] = 1  # interactive: answer each line at once
    return functools.partial(load(args).generate, details=True, on_error="blank", first=first, **options)


def _is_typed(args: argparse.Namespace) -> bool:
    return args.input == "-" and sys.stdin is not None and sys.stdin.isatty()


def _open_output(args: argparse.Namespace, source: TableInput) -> Piped | Unfinished:
    output = TableOutput(args.output, args.output_format, args.output_column, source)
    if args.json and output.format not in (LINES, JSONL):
        raise UserError(f"--json: {output.format} has no place for it; write plain lines or JSONL")
    if args.output == "-":
        return Piped(output, standard_output(), at_once=_is_typed(args))
    if os.path.isdir(args.output):
        raise UserError(f"{args.output}: is a folder; name a file in it")
    if os.path.exists(args.output) and not os.path.isfile(args.output):  # /dev/null, a named pipe
        return Piped(output, open(args.output, "wb"))
    refuse_overwriting(args.output, [args.input])
    return Unfinished(output, args.output, _made_of(args, source, output), args.resume)


def _made_of(args: argparse.Namespace, source: TableInput, output: TableOutput) -> dict[str, Any]:
    """Everything that changes the texts of a run, by its name on the command line.

    Left out is how failing lines are handled: a run that stopped at one may be resumed with another choice.
    """
    model = Path(args.model)
    if model.is_dir():
        files = sorted(path for path in model.rglob("*") if path.is_file())
    else:
        beside = [model.with_name(name) for name in (LINK_FILE, CASING_FILE)]
        files = [model, *beside, *sorted(model.parent.glob("dict.*.txt"))]
    files += [Path(path) for path in (args.vocab, args.link, args.casing) if path not in (None, NO_LINK, NO_CASING)]
    given = {f"--{name.replace('_', '-')}": value for name, value in generation_options(args).items()}
    flags = {
        "--dtype": args.dtype, "--keep-repeats": args.keep_repeats, "--json": args.json, "--link": args.link == NO_LINK,
        "--casing": args.casing == NO_CASING, "--prefix": args.prefix,
        "--prefix-file": _digest(args.prefix_file) if args.prefix_file else None,
    }  # fmt: skip
    return {
        "--input": _digest(args.input) if os.path.isfile(args.input) else None,
        "--input-format": source.format, "--input-column": source.column,
        "--output-format": output.format, "--output-column": output.column,
        "MODEL": [_digest(path) for path in files if path.is_file()], **given, **flags,
    }  # fmt: skip


def _digest(path: StrPath) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
