"""Options that several subcommands have: what to load, and how to generate."""

import argparse
from typing import Any

GENERATION = {
    "mode": (str, "how to generate: ar, semi-nar, nar, or another that the model has (default: the model's)"),
    "beam": (int, "hypotheses of AR's beam search; 1: greedy"),
    "block_size": (int, "tokens that semi-NAR predicts at once"),
    "commit_threshold": (float, "semi-NAR keeps tokens of a block while each has this probability, and verifies the others; 0: all"),
    "draft_length": (int, "tokens that speculative decoding drafts at once"),
    "draft_from_source": (float, "what a draft's log-probability gains where it follows in the source; 0: nothing"),
    "eos_penalty": (float, "what NAR and semi-NAR take off the log-probability of a text's end; above 0: longer texts"),
    "max_len": (int, "limit on the word pieces of a text"),
    "max_len_a": (float, "what each word piece of the source adds to that limit"),
    "min_len": (int, "least word pieces of a text"),
    "len_penalty": (float, "scores are log-probabilities over the length to this power"),
    "no_repeat_ngram_size": (int, "in AR and speculative decoding, no sequence of so many word pieces comes twice in a text"),
}
"""Types and help of `api.Options`."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder of bang pack or bang export, or a checkpoint")
    parser.add_argument("--vocab", metavar="FILE", help="a checkpoint's vocabulary (default: dict.*.txt beside it, or the "
                        "published vocab.txt)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one, for an export cpu)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"),
                        help="precision to compute in (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the library's choice)")


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    for name, (kind, text) in GENERATION.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind, metavar="MODE" if kind is str else "N", help=text)


def load(args: argparse.Namespace):
    """The model that the command line names."""
    from ..inference.api import Bang

    return Bang.load(args.model, vocab=args.vocab, device=args.device, dtype=args.dtype, threads=args.threads)


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The generation options that the command line gives."""
    return {name: getattr(args, name) for name in GENERATION if getattr(args, name) is not None}
