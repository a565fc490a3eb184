"""Options that several subcommands share: what to load, and how to generate."""

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
        help="a file of bang link, for better texts in NAR and semi-NAR, or none (default: link.bin in the model's folder or "
        "beside the checkpoint)",
    )


def add_casing_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--casing",
        metavar="FILE",
        help="a table of bang casing, which gives texts capitals, or none (default: casing.tsv in the model's folder or beside "
        "the checkpoint)",
    )


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    for name, option in DESCRIBED.items():
        if name == "link":  # `add_model_arguments` has it
            continue
        text = f"how to generate: {', '.join(MODES)} (default: the model's)" if name == "mode" else option.metadata["help"]
        text, option_string = text.replace("%", "%%"), "--" + name.replace("_", "-")
        if option.type is bool:
            parser.add_argument(option_string, action="store_true", default=None, help=text)
        elif "choices" in option.metadata:
            parser.add_argument(option_string, choices=option.metadata["choices"], help=text)
        else:
            metavar = "MODE" if option.type is str else "N"
            action = parser.add_argument(option_string, type=option.type, metavar=metavar, help=text)
            if name == "mode":
                vars(action)["completer"] = lambda **_: list(MODES)  # argcomplete reads it


def load(args: argparse.Namespace):
    """The model that the command line names."""
    from ..inference.api import Bang

    return Bang.load(**load_arguments(args))


def load_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Bang.load`."""
    return {name: getattr(args, name) for name in ("model", "vocab", "link", "casing", "device", "dtype", "threads")}


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The generation options that the command line gives."""
    given = {name: getattr(args, name) for name in DESCRIBED if name != "link"}
    return {name: value for name, value in given.items() if value is not None}
