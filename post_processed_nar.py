"""Cleans up the hypotheses of a non-autoregressive model: one line in, one line out.

    python post_processed_nar.py hypo hypo.dedup
    python post_processed_nar.py --detokenize hypo hypo.txt
    python post_processed_nar.py --detokenize --keep-repeats ar.hypo ar.txt

The first cuts each line at its [SEP], drops immediate repeats and joins the word pieces to words, as the published
script does: `c + +` becomes `c +`. The second gives text for people: `c++`, `node.js`, `(http)`.
"""

import argparse
import sys
from functools import partial

from bang.text import files
from bang.text.cleanup import clean_up, to_text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="IN", help="hypotheses, word pieces joined by blanks, one a line")
    parser.add_argument("output", metavar="OUT", help="where the text goes, one line for each line of IN")
    parser.add_argument("--published", action="store_true", help="the published clean-up, to the letter: the default")
    parser.add_argument("--detokenize", action="store_true",
                        help="write blanks where people write them, and drop no repeat that belongs to `c++` or `::`")
    parser.add_argument("--keep-repeats", action="store_true",
                        help="drop no repeats: for AR hypotheses, whose model does not repeat by habit")
    args = parser.parse_args()
    if args.published and (args.detokenize or args.keep_repeats):
        parser.error("--published is the clean-up without --detokenize and --keep-repeats: give one or the others")
    clean = partial(to_text if args.detokenize else clean_up, keep_repeats=args.keep_repeats)
    try:
        files.refuse_overwriting(args.output, [args.input])
        with files.replacing(args.output) as output:
            line = None
            for line in files.read_lines(args.input):
                output.write(f"{clean(line)}\n".encode())
            if line is None:
                raise ValueError(f"{args.input}: empty: give a file with one hypothesis a line; did the generation fail?")
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {files.told(error)}")


if __name__ == "__main__":
    main()
