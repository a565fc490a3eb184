"""Exports a model to ONNX: one encoder graph, and one decoder graph for every mode.

    bang export checkpoint_best.pt exported
    bang export --int8 model exported-int8
    bang generate exported-int8 --mode nar < texts

What is exported runs on onnxruntime, tokenizers and numpy alone. It is checked against the model on sentences: those of
--check, or some of ours; the last lines say how many texts agree, by mode. int8 rounds, so some of its texts differ. float32
gives the model's texts but for near ties: where more than a quarter differ, the status is not 0, and FOLDER stays to be looked at.
"""

import argparse
import itertools
import sys

from ..inference.folder import import_heavy

HELP = "a model to ONNX graphs that run without torch"

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "This package contains the header files and static libraries that are needed to develop programs.",
    "A library for reading and writing compressed archives, with bindings for Python and Perl.",
    "Graphical tool to view the log files of a web server; it draws the number of visitors of each day.",
    "Who wrote the first program for a machine that was never built?",
    "The committee will meet again on Tuesday to decide about the budget of the coming year.",
    "small and fast",
    "Documentation of the compiler, in several formats, with examples of all statements and of their options.",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder of bang pack, or a checkpoint of fairseq-train")
    parser.add_argument("folder", metavar="FOLDER", help="the folder to make")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--int8", dest="precision", action="store_const", const="int8", default="float32",
                           help="weights of 8 bits, for CPUs: a quarter of the size, and faster")
    precision.add_argument("--float16", dest="precision", action="store_const", const="float16", help="for GPUs")
    parser.add_argument("--reduce-range", action=argparse.BooleanOptionalAction,
                        help="with --int8: 7 bits, for CPUs without VNNI (default: as this CPU needs)")
    parser.add_argument("--vocab", metavar="FILE", help="a checkpoint's vocabulary (default: dict.*.txt beside it, or the "
                        "published vocab.txt)")
    parser.add_argument("--check", metavar="FILE", help="raw text to check with, a text a line; its first 100 lines")


def run(args: argparse.Namespace) -> None:
    if args.reduce_range is not None and args.precision != "int8":
        raise ValueError("--reduce-range is about --int8")
    texts = SENTENCES
    if args.check is not None:
        from ..text.files import read_lines

        texts = [line for line in itertools.islice(read_lines(args.check), 100) if line.strip()]
        if not texts:
            raise ValueError(f"{args.check}: holds no text to check with")
    export, trained_model = import_heavy("bang.deploy.export"), import_heavy("bang.inference.trained_model")
    model = trained_model.read_model(args.model, args.vocab)
    export.export(model, args.folder, args.precision, args.reduce_range)
    agreeing = export.compare(model, args.folder, texts)
    for mode, count in agreeing.items():
        print(f"{mode}: {count} of {len(texts)} texts as the model's", file=sys.stderr)
    differing = [mode for mode, count in agreeing.items() if 4 * count < 3 * len(texts)]
    if differing and args.precision == "float32":
        modes = ", ".join(differing)
        raise ValueError(f"{args.folder}: does not write the model's texts in {modes}, as float32 must; do not use it")
