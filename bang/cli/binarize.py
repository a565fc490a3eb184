"""Word pieces to fairseq's binary data, by fairseq-preprocess with the options that BANG needs.

    bang tokenize --out-dir tokenized raw/*.src raw/*.tgt
    bang binarize tokenized processed

It takes those of the parts {train,valid,test}.{src,tgt} that TOKENIZED has, with --text of text.{train,valid,test}.
"""

import argparse
import shlex

from ..options import check_number
from ..recipes.binarize import binarize, binarize_words, find_prefixes
from ..text.files import StrPath
from ..text.vocabulary import VOCAB, read_vocabulary

HELP = "word pieces to fairseq's binary data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenized", metavar="TOKENIZED", help="folder of word pieces, one text a line")
    parser.add_argument("out", metavar="OUT", help="folder for fairseq's data")
    parser.add_argument("--text", action="store_true", help="running text for pretraining, not pairs")
    parser.add_argument("--vocab", default=VOCAB, metavar="FILE", help="vocabulary (default: the published vocab.txt)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the command line of fairseq-preprocess, and do nothing")


def run(args: argparse.Namespace) -> None:
    check_number("--workers", args.workers, least=1)
    read_vocabulary(args.vocab)
    prefixes = find_prefixes(args.tokenized, args.text)

    def words(out: StrPath) -> list[str]:
        return [*map(str, binarize_words(prefixes, out, args.vocab, args.text)), "--workers", str(args.workers)]

    if args.dry_run:
        print(shlex.join(words(args.out)))
    else:
        binarize(words, args.out)
