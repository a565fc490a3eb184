"""The options that BANG adds to fairseq's command lines, as a page in Markdown: `docs/options.md` is made so.

    bang options > docs/options.md

fairseq-train --help ends before it has seen --task, --arch and --criterion, so it lists none of them.
"""

import argparse

from ..inference.load import import_heavy

HELP = "the options that BANG adds to fairseq's command lines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: the page is always the same."""


def run(args: argparse.Namespace) -> None:
    print(import_heavy("bang.plugin.options_page").page(), end="")
