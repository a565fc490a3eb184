"""Options that several subcommands have: what to load, and how to generate."""

import argparse
from typing import Any

from ..modes import MODES
from ..options import DESCRIBED


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder of bang pack or bang export, or a checkpoint")
    parser.add_argument(
        "--vocab", metavar="FILE", help="a checkpoint's vocabulary (default: dict.*.txt beside it, or the published vocab.txt)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one, for an export cpu)")
    add_dtype_argument(parser, "precision to compute in")
    add_link_argument(parser)
    add_casing_argument(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the library's choice)")


def add_dtype_argument(parser: argparse.ArgumentParser, what: str) -> None:
    choices = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", default=choices[0], choices=choices, help=f"{what} (default: %(default)s)")


def add_link_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--link",
        metavar="FILE",
        help="what chooses the texts of NAR and semi-NAR, a file of bang link, or none (default: link.bin in the model's folder, "
        "or beside the checkpoint)",
    )


def add_casing_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--casing",
        metavar="FILE",
        help="what gives texts capitals, a table of bang casing, or none (default: casing.tsv in the model's folder, or beside "
        "the checkpoint)",
    )


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    for name, option in DESCRIBED.items():
        if name == "link":  # its file is the model's: `add_model_arguments`
            continue
        text = f"how to generate: {', '.join(MODES)} (default: the model's)" if name == "mode" else option.metadata["help"]
        kind: dict[str, Any] = {"type": option.type, "metavar": "MODE" if option.type is str else "N"}
        if "choices" in option.metadata:
            kind = {"choices": option.metadata["choices"]}
        parser.add_argument("--" + name.replace("_", "-"), help=text.replace("%", "%%"), **kind)


def load(args: argparse.Namespace):
    """The model that the command line names."""
    from ..inference.api import Bang

    options = ("vocab", "link", "casing", "device", "dtype", "threads")
    return Bang.load(args.model, **{name: getattr(args, name) for name in options})


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The generation options that the command line gives."""
    given = {name: getattr(args, name) for name in DESCRIBED if name != "link"}
    return {name: value for name, value in given.items() if value is not None}
