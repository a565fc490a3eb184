"""ROUGE-1, -2 and -L of hypotheses against references on one line: F1 x 100, the mean over the texts.

    python scripts/rouge.py hypo reference

`bang evaluate` has these and more, with how they were computed.
"""

import argparse
import sys

from bang.text.evaluate import evaluate, read_texts
from bang.text.files import told


def rouge(hypothesis: str, reference: str) -> dict[str, float]:
    """Scores a file of hypotheses against a file of references, line by line.

    Raises:
        ValueError: the files differ in their number of lines, or have none.
    """
    scores = evaluate({hypothesis: read_texts(hypothesis)}, read_texts(reference), ["rouge"])["systems"][hypothesis]
    return {name: scores[name] for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hypothesis", metavar="HYPO", help="text to be scored, one a line")
    parser.add_argument("reference", metavar="REF", help="reference texts, one a line")
    args = parser.parse_args()
    try:
        scores = rouge(args.hypothesis, args.reference)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {told(error)}")
    print("  ".join(f"{name} {score:.2f}" for name, score in scores.items()))


if __name__ == "__main__":
    main()
