"""Scores texts against references: a table, and JSON with how each score was computed.

    bang evaluate nar.txt --reference raw/test.tgt
    bang evaluate ar.txt nar.txt --reference raw/test.tgt --metrics rouge bleu --bootstrap 1000 --json scores.json

Texts are words as people write them (post_processed_nar.py --detokenize), not word pieces. Groups of metrics:

    rouge     ROUGE-1, -2, -L, -Lsum by rouge_score: F1 with stemmer, lower-cased
    bleu      BLEU by sacrebleu, and lower-cased (-lc)
    chrf      chrF by sacrebleu, and lower-cased
    questions BLEU-4 and ROUGE-L (F with beta 1.2) of question generation's scripts, lower-cased
    dialogue  BLEU-1 and -2, lower-cased: of the corpus (sacrebleu, no smoothing), and the mean over
              sentences (nltk, smoothing method 7), which papers report under the same name
    meteor    METEOR by nltk, where nltk's data is there
    distinct  different 1-grams and 2-grams of all that the system wrote
    faults    repeated words, texts that end unfinished, empty ones, and length against the references

Every table has the share of distinct texts, and a warning for a system that writes much the same text for every source.
All scores are x 100. The column "reference" has the scores of the references themselves.
"""

import argparse
import json
import re
from pathlib import Path

from ..errors import UserError
from ..text.files import refuse_overwriting, replacing

HELP = "ROUGE, BLEU, chrF, METEOR, distinct n-grams and faults of texts, compared by bootstrap"

_OF_REFERENCES = ("distinct", "faults")  # groups that apply to the references alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="+", metavar="TEXTS", help="a system's texts, one a line; the first is the baseline")
    parser.add_argument("--reference", required=True, metavar="FILE", help="the reference texts, one a line")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="GROUP", help="groups of metrics (default: all)")
    parser.add_argument(
        "--tokenize",
        default="13a",
        metavar="NAME",
        help="13a: sacrebleu's, the one to report; none: split at blanks; ptb: TEXTS become Penn "
        "Treebank tokens, as the references of SQuAD question generation are (default: %(default)s)",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="compare each system with the first by paired bootstrap with N resamples, 1000 for instance",
    )
    parser.add_argument("--json", metavar="FILE", help="write the scores, signatures and comparisons there")


def run(args: argparse.Namespace) -> None:
    from ..text import evaluate

    if args.bootstrap < 0 or (args.bootstrap and len(args.texts) < 2):
        raise UserError(f"--bootstrap {args.bootstrap}: give a positive number, and the TEXTS of two systems or more")
    if args.json is not None:
        refuse_overwriting(args.json, [*args.texts, args.reference])
    systems = {path: evaluate.read_texts(path) for path in args.texts}
    if len(systems) < len(args.texts):
        raise UserError(f"TEXTS name a file twice: {' '.join(args.texts)}")
    references = evaluate.read_texts(args.reference)
    for path, texts in systems.items():
        if any(re.search(r"\w ##\w|\[SEP\]", text) for text in texts):
            raise UserError(f"{path} holds word pieces: make text of them first, by post_processed_nar.py --detokenize")
    report = evaluate.evaluate(systems, references, args.metrics, args.tokenize, args.bootstrap)
    own = [group for group in args.metrics or evaluate.METRICS if group in _OF_REFERENCES]
    report["reference"] = evaluate.evaluate({"": references}, references, own or ["distinct"], args.tokenize)["systems"][""]
    if args.json is not None:
        with replacing(args.json) as file:
            file.write(f"{json.dumps(report, indent=2, ensure_ascii=False)}\n".encode())
    print(table(report))


def table(report: dict) -> str:
    """Formats what `evaluate` returned: a row for each metric, a column for each system."""
    systems, against = report["systems"], report.get("against", {})
    columns = {_short(path, systems): scores for path, scores in systems.items()}
    if "reference" in report:
        columns["reference"] = report["reference"]
    rows = [["", *columns, *(f"p {_short(path, systems)}" for path in against)]]
    for metric in report["signatures"]:
        scores = [f"{column[metric]:.2f}" if metric in column else "" for column in columns.values()]
        chances = [f"{found[metric]['p']:.3f}" if metric in found else "" for found in against.values()]
        rows.append([metric, *scores, *chances])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    ]
    lines.append(f"{report['sentences']} sentences")
    if against:
        lines[-1] += (
            f"; p: that the difference to {_short(report['baseline'], systems)} is chance ({report['resamples']} resamples)"
        )
    lines += [f"{_short(path, systems)}: {warning}" for path, warning in report["warnings"].items()]
    lines += [f"{group} not measured: {why}" for group, why in report["not_measured"].items()]
    by_signature: dict[str, list[str]] = {}
    for metric, signature in report["signatures"].items():
        by_signature.setdefault(signature, []).append(metric)
    lines += [f"{', '.join(metrics)}: {signature}" for signature, metrics in by_signature.items()]
    return "\n".join(line.rstrip() for line in lines)


def _short(path: str, paths: dict) -> str:
    """The file's name where names are different for all systems, else the path."""
    name = Path(path).stem
    return name if sum(Path(other).stem == name for other in paths) == 1 else path
