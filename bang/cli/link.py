"""Makes a link: an n-gram model by which NAR and semi-NAR write the best path through their slots' likeliest tokens.

    bang link train.tgt --out link.bin --tune valid.src valid.tgt --model checkpoint.pt
    bang generate checkpoint.pt --mode nar --link link.bin < texts

The n-grams are those of TARGETS, raw text. The weights of the search depend on the model: --tune chooses them by the ROUGE of
the model's texts, with one NAR pass over the sources and a few dozen searches. link.bin in a model's folder (`bang pack --link`,
`bang export --link`) or beside a checkpoint is used by default in NAR and semi-NAR.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from ..decoding.counting import make_link
from ..decoding.link import NO_LINK, Weights
from ..errors import UserError
from ..text.files import read_lines, refuse_overwriting
from ..text.vocabulary import VOCAB, read_normalization, read_vocabulary
from ..text.wordpieces import WordPieces

HELP = "target texts to a link, for better texts in NAR and semi-NAR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="+", metavar="TARGETS", help="texts to count, one a line: the training targets")
    parser.add_argument("--out", required=True, metavar="FILE", help="the link to write")
    parser.add_argument("--vocab", metavar="FILE", help="the model's vocabulary (default: --model's, or the published vocab.txt)")
    parser.add_argument("--tokenized", action="store_true", help="TARGETS are word pieces joined by blanks, as of bang tokenize")
    parser.add_argument(
        "--order", type=int, choices=(2, 3), default=3, help="tokens of the longest n-grams (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold", type=int, default=1, metavar="N", help="leave out n-grams seen less than N times (default: %(default)s)"
    )
    parser.add_argument("--tune", nargs=2, metavar=("SRC", "TGT"), help="validation pairs, raw, to choose the weights by")
    parser.add_argument(
        "--tune-pairs", type=int, default=1000, metavar="N", help="use the first N of them (default: %(default)s)"
    )
    parser.add_argument("--model", metavar="MODEL", help="the model to --tune for: a checkpoint or a folder")


def run(args: argparse.Namespace) -> None:
    if (args.tune is None) != (args.model is None):
        raise UserError("--tune SRC TGT and --model MODEL belong together: the weights depend on the model")
    for name in ("threshold", "tune_pairs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: give 1 or more")
    refuse_overwriting(args.out, [*args.targets, *(args.tune or [])])
    vocabulary = args.vocab or VOCAB
    model, pieces = None, list(read_vocabulary(vocabulary)) if args.model is None else []
    normalization = read_normalization(vocabulary)
    if args.model is not None:
        from ..inference.api import Bang

        model = Bang.load(args.model, vocab=args.vocab, link=NO_LINK)
        pieces, normalization = model.pieces, model.normalization
    # width 2 of order 3 is as good as more, and order 2 is exact with 1
    start = Weights(0.5, 3.0, 0.6, candidates=24, width=args.order - 1)
    texts = _ids(args.targets, WordPieces(pieces, normalization), pieces, args.tokenized)
    link = make_link(texts, pieces, pieces.index("[SEP]"), args.order, args.threshold, weights=start)
    if model is not None:
        from ..inference.link_tuning import tuned

        sources, targets = (list(read_lines(path)) for path in args.tune)
        if len(sources) != len(targets):
            raise UserError(
                f"{args.tune[0]} has {len(sources)} lines and {args.tune[1]} {len(targets)}: give pairs, line by line"
            )
        link = tuned(link, model, sources[: args.tune_pairs], targets[: args.tune_pairs], _say)
    link.save(args.out)
    counts = f"{len(link.keys2):,} bigrams, {len(link.keys3):,} trigrams"
    dropped = f", {link.dropped:,} n-grams seen less than {args.threshold} times left out" if args.threshold > 1 else ""
    print(f"{args.out}: {counts}{dropped}; {os.path.getsize(args.out) / 1e6:.1f} MB")
    print(f"weights{'' if model else ', not tuned'}: {_format_weights(link.weights)}")


def _format_weights(weights: Weights) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in asdict(weights).items())


def _say(weights: Weights, score: float) -> None:
    print(f"ROUGE-L + ROUGE-2 / 2 {score:.2f}: {_format_weights(weights)}", file=sys.stderr, flush=True)


def _ids(paths: Sequence[str], split: WordPieces, pieces: Sequence[str], is_tokenized: bool) -> Iterator[list[int]]:
    """The texts as ids."""
    ids = {piece: index for index, piece in enumerate(pieces)}
    unknown = ids["[UNK]"]
    for path in paths:
        for line in read_lines(path):
            yield [ids.get(piece, unknown) for piece in (line if is_tokenized else split(line)).split()]
