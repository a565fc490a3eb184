"""Exports a model to ONNX: one encoder graph, and one decoder graph for every mode.

    bang export checkpoint_best.pt exported
    bang export --int8 --check test.src --reference test.tgt model exported-int8
    bang generate exported-int8 --mode nar < texts

An export runs on onnxruntime, tokenizers and numpy alone. It is checked against the model on the sentences of --check, or on
built-in ones; the last lines say how many texts are equal, by mode. int8 rounds, so some of its texts differ: --reference adds
what that costs in ROUGE (greedy, at most 64 word pieces). float32 differs only in near ties: if more than a quarter of the
texts differ, the status is not 0, and FOLDER is kept.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from ..errors import UserError
from ..inference.load import import_heavy
from ..packages import install_command
from ..text.files import read_lines
from ._options import add_casing_argument, add_link_argument

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
    precision.add_argument(
        "--int8",
        dest="precision",
        action="store_const",
        const="int8",
        default="float32",
        help="weights of 8 bits, for CPUs: a quarter of the size of float32's graphs, and faster",
    )
    precision.add_argument("--float16", dest="precision", action="store_const", const="float16", help="for GPUs")
    parser.add_argument(
        "--reduce-range",
        action=argparse.BooleanOptionalAction,
        help="with --int8: 7 bits, for CPUs without VNNI (default: as this CPU needs)",
    )
    parser.add_argument(
        "--vocab", metavar="FILE", help="a checkpoint's vocabulary (default: dict.*.txt beside it, or the published vocab.txt)"
    )
    add_link_argument(parser)
    add_casing_argument(parser)
    parser.add_argument("--check", metavar="FILE", help="raw text to check with, one a line; its first 100 lines")
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="references for --check's texts, line by line: prints the ROUGE of the model and of the export",
    )


def run(args: argparse.Namespace) -> None:
    if args.reduce_range is not None and args.precision != "int8":
        raise UserError("--reduce-range is about --int8")
    texts, references = _check_texts(args.check, args.reference)
    export, trained_model = import_heavy("bang.deploy.export"), import_heavy("bang.inference.trained_model")
    model = trained_model.read_model(args.model, args.vocab, args.link, args.casing)
    export.export(model, args.folder, args.precision, args.reduce_range, _say)
    _say(f"check with {len(texts)} texts")
    agreeing = {}
    for mode, own, exported in export.texts_of_both(model, args.folder, texts):
        agreeing[mode] = sum(a.pieces == b.pieces for a, b in zip(own, exported))
        cost = _cost(own, exported, references) if references else ""
        print(f"{mode}: {agreeing[mode]} of {len(texts)} texts as the model's{cost}", file=sys.stderr)
    differing = [mode for mode, count in agreeing.items() if 4 * count < 3 * len(texts)]
    if differing and args.precision == "float32":
        modes = ", ".join(differing)
        raise UserError(f"{args.folder}: does not write the model's texts in {modes}, as float32 must; do not use it")


def _say(step: str) -> None:
    print(f"{step} …", file=sys.stderr, flush=True)


def _check_texts(check: str | None, reference: str | None) -> tuple[Sequence[str], list[str]]:
    """Texts to check an export with, and the references of each, if there are."""
    if check is None:
        if reference is not None:
            raise UserError("--reference FILE belongs to the texts of --check FILE: give them too")
        return SENTENCES, []
    if reference is not None and importlib.util.find_spec("rouge_score") is None:  # fail now, not after minutes
        raise UserError(f"--reference needs the package rouge-score: {install_command('rouge-score', 'eval')}")
    texts = list(read_lines(check))
    references = list(read_lines(reference)) if reference is not None else []
    if reference is not None and len(references) != len(texts):
        raise UserError(f"{check} has {len(texts)} lines and {reference} {len(references)}: give a reference for each")
    kept = [number for number, text in enumerate(texts[:100]) if text.strip()]
    if not kept:
        raise UserError(f"{check}: holds no text to check with")
    return [texts[number] for number in kept], [references[number] for number in kept] if references else []


_ROUGE = ("ROUGE-1", "ROUGE-2", "ROUGE-L")


def _cost(own: Sequence, exported: Sequence, references: Sequence[str]) -> str:
    """The ROUGE of the model's texts and of its export's."""
    from ..text.evaluate import evaluate

    systems = {name: [found.text for found in texts] for name, texts in (("own", own), ("export", exported))}
    scores = evaluate(systems, references, ["rouge"])["systems"]
    said = ["/".join(f"{scores[name][row]:.2f}" for row in _ROUGE) for name in ("export", "own")]
    return f"; {'/'.join(_ROUGE)} {said[0]}, the model's {said[1]}"
