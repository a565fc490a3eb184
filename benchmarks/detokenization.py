"""How much of three kinds of text comes back from its word pieces: `bang.text.detokenize`, and pieces joined alone.

    python benchmarks/detokenization.py --lines raw/test.tgt \\
        --docstrings "$(python -c 'import os; print(os.path.dirname(os.__file__))')" --manual-pages /usr/share/man --show 20

Lines are lower-cased and counted once. Left out are those that word pieces do not spell: letters with accents, characters
that the vocabulary lacks. Of docstrings and manual pages every fourth line counts, chosen by its checksum; `--write FILE`
writes the others, which research/make_blanks.py learns from.
"""

import argparse
import ast
import gzip
import random
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bang.text.detokenize import detokenize  # noqa: E402
from bang.text.files import read_lines  # noqa: E402
from bang.text.wordpieces import load_word_pieces  # noqa: E402

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FONT = re.compile(r"\\f(?:\[\w*\]|\(..|.)|\\s[+-]?\d|\\[&|/^:%]|\\\".*")  # of troff: fonts, sizes, marks without width, comments
_TROFF = {r"\-": "-", r"\(aq": "'", r"\(dq": '"', r"\(bu": "*", r"\e": "\\", r"\ ": " ", r"\~": " ", r"\(em": "—", r"\(en": "–"}


def docstrings(folder: Path) -> Iterator[str]:
    """The first lines of the docstrings of the Python files in a folder, tests left out."""
    for path in sorted(folder.rglob("*.py")):
        if {"test", "tests", "idle_test"} & set(path.parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
                yield text.splitlines()[0]


def name_lines(folder: Path) -> Iterator[str]:
    """The lines under NAME of the English manual pages in a folder, `ls - list directory contents`."""
    for path in sorted(folder.glob("man*/*")):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            found = re.search(r'^\.S[Hh] +"?NAME"?[ \t]*\n((?:.*\n){1,12}?)(?=\.S[Hh]\b)', file.read(), flags=re.M | re.I)
        if found is None:
            continue
        text = " ".join(line for line in found[1].splitlines() if not re.match(r"[.'](?!Nm|Nd|B |I )", line))
        text = _FONT.sub("", re.sub(r"(?:^| )\.(?:Nm|B|I) +", " ", text).replace(".Nd ", "- "))
        for written, meant in _TROFF.items():
            text = text.replace(written, meant)
        if " - " in text and "\\" not in text:
            yield text


def spelled(lines: Iterator[str]) -> dict[str, str]:
    """{line, lower-cased, single blanks: its word pieces}, of the lines that these spell."""
    word_pieces, found = load_word_pieces(), {}
    for line in lines:
        line = " ".join(line.lower().split())
        pieces = word_pieces(line)
        if line and pieces.replace(" ##", "").replace(" ", "") == line.replace(" ", ""):
            found[line] = pieces
    return found


def is_unseen(line: str) -> bool:
    """Whether a line of docstrings or manual pages is kept from learning."""
    return crc32(line.encode()) % 4 == 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", nargs="+", default=[], metavar="FILE", help="texts, one a line")
    parser.add_argument(
        "--sources", nargs="+", default=[], metavar="FILE", help="the texts that those of --lines were written for"
    )
    parser.add_argument("--docstrings", nargs="+", default=[], metavar="FOLDER", help="of Python files")
    parser.add_argument("--manual-pages", nargs="+", default=[], metavar="FOLDER", help="of man1, man2, …")
    parser.add_argument("--write", metavar="FILE", help="write the lines of docstrings and manual pages that are learned from")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N of the lines that do not come back")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of lines to print")
    args = parser.parse_args()
    kinds = [(path, read_lines(path), False) for path in args.lines]
    kinds += [(f"docstrings in {path}", docstrings(Path(path)), True) for path in args.docstrings]
    kinds += [(f"manual pages in {path}", name_lines(Path(path)), True) for path in args.manual_pages]
    sources: dict[str, str] = {}
    for path, written_for in zip(args.lines, args.sources):
        sources |= {" ".join(line.lower().split()): source for line, source in zip(read_lines(path), read_lines(written_for))}
    learned: list[str] = []
    for name, lines, is_shared in kinds:
        found = spelled(lines)
        if is_shared:
            learned += [line for line in found if not is_unseen(line)]
            found = {line: pieces for line, pieces in found.items() if is_unseen(line)}
        if not found:
            sys.exit(f"{parser.prog}: error: {name}: no lines")
        restored = {line: detokenize(pieces, sources.get(line, "")) for line, pieces in found.items()}
        wrong = [line for line in found if restored[line] != line]
        joined = sum(pieces.replace(" ##", "") == line for line, pieces in found.items())
        shares = 100 * (1 - len(wrong) / len(found)), 100 * joined / len(found)
        print(f"{name}: {len(found)} lines, {shares[0]:.1f} % come back, pieces joined alone {shares[1]:.1f} %", flush=True)
        for line in random.Random(args.seed).sample(wrong, min(args.show, len(wrong))):
            print(f"    {line}\n    {restored[line]}\n")
    if args.write is not None:
        Path(args.write).write_text("".join(f"{line}\n" for line in learned), encoding="utf-8")


if __name__ == "__main__":
    main()
