"""ROUGE-1, -2 and -L of hypotheses against references: F1 x 100, the mean over the lines.

    python scripts/rouge.py hypo reference

The package rouge_score, with its Porter stemmer. It lower-cases and keeps letters and digits alone.
"""

import argparse
import sys
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer

METRICS = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}


def rouge(hypothesis: str, reference: str) -> dict[str, float]:
    """Scores a file of hypotheses against a file of references, line by line.

    Raises:
        ValueError: the files differ in their number of lines, or have none.
    """
    hypotheses, references = (Path(path).read_text(encoding="utf-8").split("\n") for path in (hypothesis, reference))
    for lines in (hypotheses, references):
        if lines[-1] == "":
            lines.pop()  # what follows the last line feed
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            f"{hypothesis} has {len(hypotheses)} lines, {reference} {len(references)}: "
            "give one hypothesis for each reference, and at least one"
        )
    scorer = RougeScorer(list(METRICS.values()), use_stemmer=True)
    scores = [scorer.score(expected, found) for found, expected in zip(hypotheses, references)]
    return {
        name: 100 * sum(score[metric].fmeasure for score in scores) / len(scores) for name, metric in METRICS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hypothesis", metavar="HYPO", help="text to be scored, one a line")
    parser.add_argument("reference", metavar="REF", help="reference texts, one a line")
    args = parser.parse_args()
    try:
        scores = rouge(args.hypothesis, args.reference)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print("  ".join(f"{name} {score:.2f}" for name, score in scores.items()))


if __name__ == "__main__":
    main()
