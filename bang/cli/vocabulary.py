"""Makes a smaller vocabulary: the pieces that some raw texts use, and all that words are spelled with.

    bang vocabulary vocab.small.txt raw/train.src raw/train.tgt
    bang tokenize --vocab vocab.small.txt --out-dir tokenized raw/train.src …

A word whose piece is left out is split into shorter ones. The output layer and the embeddings shrink with the vocabulary:
much of a small model's training time. A model that starts from public weights takes the rows of its pieces.
"""

import argparse
from collections import Counter

from ..errors import UserError
from ..text.files import read_lines, refuse_overwriting, replacing
from ..text.vocabulary import VOCAB, read_normalization, read_vocabulary, smaller_vocabulary, write_normalization
from ..text.wordpieces import load_word_pieces

HELP = "a smaller vocabulary, of the pieces that some texts use"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUT", help="where the vocabulary goes, one 'piece count' a line")
    parser.add_argument("files", nargs="+", metavar="FILE", help="raw text, UTF-8: the training data")
    parser.add_argument(
        "--min-count", type=int, default=2, metavar="N", help="how often a piece has to occur (default %(default)s)"
    )
    parser.add_argument(
        "--vocab", default=VOCAB, metavar="FILE", help="the vocabulary to choose from (default: the published vocab.txt)"
    )


def run(args: argparse.Namespace) -> None:
    if args.min_count < 1:
        raise UserError(f"--min-count {args.min_count}: give 1 or more")
    refuse_overwriting(args.output, [*args.files, args.vocab])
    word_pieces = load_word_pieces(args.vocab)
    seen = Counter(piece for file in args.files for line in read_lines(file) for piece in word_pieces(line).split())
    chosen = smaller_vocabulary(read_vocabulary(args.vocab), seen, args.min_count)
    write_normalization(read_normalization(args.vocab), args.output)
    with replacing(args.output) as file:
        file.writelines(f"{piece} {count}\n".encode() for piece, count in chosen.items())
