"""Raw text to BERT word pieces joined by blanks, one line out for each line in; lower-cased unless the vocabulary says otherwise.

bang tokenize --out-dir tokenized raw/train.src raw/train.tgt
bang tokenize - < questions.txt > questions.tok
"""

import argparse
import os
from pathlib import Path

from ..errors import UserError
from ..inference import cpu
from ..text.tokenize import STANDARD_STREAM, tokenize_files
from ..text.vocabulary import VOCAB

HELP = "raw text to BERT word pieces, as fairseq-preprocess expects them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="raw text, UTF-8; - alone: from stdin to stdout")
    parser.add_argument("--out-dir", metavar="DIR", help="where each FILE's word pieces go, under the FILE's own name")
    parser.add_argument(
        "--vocab", default=VOCAB, metavar="FILE", help="vocabulary, one 'piece count' a line (default: the published vocab.txt)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=cpu.count(),
        metavar="N",
        help="processes that tokenize (default: one for each CPU, here %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: give 1 or more")
    from_stdin = args.files == [STANDARD_STREAM]
    if STANDARD_STREAM in args.files and not from_stdin:
        raise UserError("FILE -: stdin goes to stdout, so it cannot stand beside other files")
    if from_stdin == (args.out_dir is not None):
        raise UserError("give --out-dir DIR with files, and - without it")
    if args.out_dir is not None:
        os.makedirs(args.out_dir, exist_ok=True)
    outputs = args.files if from_stdin else [Path(args.out_dir, Path(file).name) for file in args.files]
    tokenize_files(args.files, outputs, args.vocab, args.workers, progress=True)
