"""Learns from text which words stand beside a dash between blanks, and which beside a hyphen.

    python scripts/make_dashes.py train.tgt > bang/text/dashes.txt

made the repository's table, from the 28,734 references of the training part of the Debian pairs (see
examples/debian). Word pieces have lost the blanks; `bang.text.detokenize` adds the two weights of the words
around a `-`.
"""

import argparse
import math
import sys
from collections import Counter

from bang.text import files
from bang.text.wordpieces import load_word_pieces


def words_and_blanks(line: str) -> tuple[list[str], list[bool]] | None:
    """Returns a line's words and marks as its word pieces give them, and whether a blank stands before each.

    None where the pieces do not spell the line: letters with accents, unknown characters.
    """
    line = line.lower()
    words, blanks, place = load_word_pieces()(line).replace(" ##", "").split(), [], 0
    for word in words:
        start = place + len(line[place:]) - len(line[place:].lstrip())
        if not line.startswith(word, start):
            return None
        blanks.append(start > place)
        place = start + len(word)
    return words, blanks


def log_odds(counts: Counter) -> float:
    """How much more likely than usual (one in three) a dash between blanks is: counts[True] against counts[False]."""
    return math.log((counts[True] + 1 / 3) / (counts[False] + 2 / 3)) - math.log(1 / 2)


def dash_weights(lines: list[str], size: int) -> dict[str, tuple[float, float]]:
    """Returns {word: (its weight before a `-`, after a `-`)}, the `size` words that say most."""
    before: dict[str, Counter] = {}
    after: dict[str, Counter] = {}
    for line in lines:
        words, blanks = words_and_blanks(line) or ([], [])
        for index in range(1, len(words) - 1):
            left, mark, right = words[index - 1 : index + 2]
            if mark == "-" and left[-1].isalnum() and right[0].isalnum() and blanks[index] == blanks[index + 1]:
                before.setdefault(left, Counter())[blanks[index]] += 1
                after.setdefault(right, Counter())[blanks[index]] += 1
    weights, says = {}, {}
    for word in before.keys() | after.keys():
        counts = before.get(word, Counter()), after.get(word, Counter())
        weights[word] = tuple(log_odds(count) if count else 0.0 for count in counts)
        says[word] = sum(abs(weight) * count.total() for weight, count in zip(weights[word], counts))
    most = sorted(weights, key=lambda word: (-says[word], word))[:size]
    return {word: weights[word] for word in sorted(most)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", metavar="TEXT", help="raw text, a line each")
    parser.add_argument("--size", type=int, default=800, help="words of the table (default %(default)s)")
    args = parser.parse_args()
    try:
        weights = dash_weights(list(files.read_lines(args.text)), args.size)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {files.told(error)}")
    print("# Made by scripts/make_dashes.py: word, log-odds of a dash between blanks after it, and before it.")
    for word, (before, after) in weights.items():
        print(f"{word} {before:.1f} {after:.1f}")


if __name__ == "__main__":
    main()
