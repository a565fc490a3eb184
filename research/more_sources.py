"""Sources without a target for `bang distill --more-sources`, out of running text; to stdout, one a line.

    python research/more_sources.py text.txt DATA > more.src

Documents of text.txt, with empty lines between them, become a line each. Left out are those of fewer than eight words, and those
that begin as a source of DATA's train, valid or test part does, or as an earlier document: the same 60 letters, marks and case
aside.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from bang.errors import UserError, user_error_message
from bang.text.files import StrPath, read_lines

LEAST_WORDS = 8
SAME = 60


def documents(path: StrPath) -> Iterator[str]:
    """The documents of a running text, each on one line."""
    lines: list[str] = []
    for line in read_lines(path):
        if line.strip():
            lines.append(line.strip())
        elif lines:
            yield " ".join(lines)
            lines = []
    if lines:
        yield " ".join(lines)


def beginning(text: str) -> str:
    """What two texts have in common that count as one."""
    return re.sub(r"\W+", " ", text.lower()).strip()[:SAME]


def more_sources(text: StrPath, data: Path) -> Iterator[str]:
    """Documents that are no source of the data's, in their order.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or not UTF-8.
    """
    seen = {beginning(line) for split in ("train", "valid", "test") for line in read_lines(data / f"{split}.src")}
    for document in documents(text):
        if len(document.split()) >= LEAST_WORDS and beginning(document) not in seen:
            seen.add(beginning(document))
            yield document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", metavar="TEXT", help="running text, UTF-8")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with {train,valid,test}.src")
    args = parser.parse_args()
    try:
        for document in more_sources(args.text, args.data):
            print(document)
    except (OSError, UserError) as error:
        sys.exit(f"more_sources.py: error: {user_error_message(error)}")


if __name__ == "__main__":
    main()
