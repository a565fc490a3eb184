# PYTHON_ARGCOMPLETE_OK
"""The command `bang`, also `python -m bang`: generates, tokenizes, packs and more, each a subcommand.

Where argcomplete is installed (the extra "completion"), a shell completes commands, options and modes:

    eval "$(register-python-argcomplete bang)"
"""

import argparse
import difflib
import importlib
import io
import os
import pkgutil
import sys
from collections.abc import Sequence

from . import __version__, cli
from .errors import UserError, shows_tracebacks, user_error_message
from .processes import orderly_end

COMMANDS = sorted(module.name for module in pkgutil.iter_modules(cli.__path__) if not module.name.startswith("_"))


def _parser(name: str | None) -> argparse.ArgumentParser:
    """The parser of one subcommand, the only one imported, or of all of them."""
    parser = argparse.ArgumentParser(prog="bang", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"bang {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS if name is None else [name]:
        module = importlib.import_module(f"{cli.__name__}.{command}")
        subparser = subparsers.add_parser(
            command.replace("_", "-"), help=module.HELP, description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run, parser=subparser)
    return parser


def _meant(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """The options that unknown ones may stand for, in words; empty: none is near."""
    options = [option for action in parser._actions for option in action.option_strings]
    given = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
    near = [found[0] for found in (difflib.get_close_matches(option, options, n=1) for option in given) if found]
    return f"; maybe {' and '.join(near)} is meant" if near else ""


def _complete() -> None:
    """Shell completion: answers if argcomplete's environment variable is set, and exits."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    name = words[1].replace("-", "_") if len(words) > 2 else None  # of a subcommand that is written out
    argcomplete.autocomplete(_parser(name if name in COMMANDS else None))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a subcommand; a user's mistake ends in one line and status 1, Ctrl-C in status 130, SIGTERM in 143."""
    _complete()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what is no UTF-8 in an argument is printed as it came
        sys.stdout.reconfigure(errors="surrogateescape")
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        with orderly_end():
            _run(argv)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(argv: Sequence[str]) -> None:
    name = argv[0].replace("-", "_") if argv else None
    args, unknown = _parser(name if name in COMMANDS else None).parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, args.parser)}")
    try:
        args.run(args)
        if sys.stdout is not None:  # closed: `bang pack … >&-`
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of stdout, head for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, UserError) as error:
        if shows_tracebacks():
            raise
        sys.exit(f"bang {args.command}: error: {user_error_message(error)}")


if __name__ == "__main__":
    main()
