"""Cleans up the hypotheses of a non-autoregressive model: one line in, one line out.

    python post_processed_nar.py hypo hypo.dedup

cuts each line at its [SEP], drops immediate repeats and joins the word pieces to words.
"""

import argparse
import sys

from bang.text import files
from bang.text.cleanup import clean_up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="IN", help="hypotheses, word pieces joined by blanks, one a line")
    parser.add_argument("output", metavar="OUT", help="where the text goes, one line for each line of IN")
    args = parser.parse_args()
    try:
        files.refuse_overwriting(args.output, [args.input])
        with files.replacing(args.output) as output:
            for line in files.read_lines(args.input):
                output.write(f"{clean_up(line)}\n".encode())
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
