"""How many words of references get their capitals back, and what capitals do to the BLEU and chrF of a system's texts.

    model=models/debian-synopsis
    bang generate $model/checkpoint.pt --mode ar --case lower --max-len 40 --truncate-source < DATA/test.src > ar.txt
    python benchmarks/casing.py DATA --texts ar.txt --table $model/casing.tsv --show 20

DATA holds test.{src,tgt}, and train.{src,tgt} unless there is a --table; --part valid takes valid.{src,tgt} instead of test.
Words are sacrebleu's 13a tokens. References are lower-cased, and restored with their sources beside them.
"""

import argparse
import random
import sys
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bang.text.casing import Casing  # noqa: E402
from bang.text.evaluate import read_texts  # noqa: E402
from bang.text.files import read_lines  # noqa: E402


def restored_words(references: list[str], restored: list[str]) -> tuple[float, float]:
    """Shares of the words, and of the texts, that are as in the references."""
    split = Tokenizer13a()
    words = [pair for texts in zip(references, restored) for pair in zip(*(split(text).split() for text in texts))]
    return sum(a == b for a, b in words) / len(words), sum(map(str.__eq__, references, restored)) / len(references)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with {train,test}.{src,tgt}")
    parser.add_argument("--part", default="test", choices=["valid", "test"])
    parser.add_argument("--table", metavar="FILE", help="of bang casing (default: of DATA's training pairs)")
    parser.add_argument("--texts", nargs="+", default=[], metavar="FILE", help="lower-case texts of a system for test.src")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N of the references that do not come back")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of references to print")
    args = parser.parse_args()
    table = (
        Casing.load(args.table)
        if args.table
        else Casing.count(*(read_lines(args.data / f"train.{side}") for side in ("tgt", "src")))
    )
    sources, references = (read_texts(args.data / f"{args.part}.{side}") for side in ("src", "tgt"))
    lower = [text.lower() for text in references]
    systems = {
        "as lower case": lower,
        "with the sources alone": list(map(Casing().restore, lower, sources)),
        "with the table alone": list(map(table.restore, lower)),
        "with both": (both := list(map(table.restore, lower, sources))),
    }
    for name, texts in systems.items():
        words, whole = restored_words(references, texts)
        print(f"{name}: {100 * words:.1f} % of the words of the references, {100 * whole:.1f} % of the references", flush=True)
    for path in args.texts:
        texts = read_texts(path)
        restored = list(map(table.restore, texts, sources))
        bleu, chrf = BLEU(), CHRF()
        before, after = (
            [metric.corpus_score(found, [references]).score for metric in (bleu, chrf)] for found in (texts, restored)
        )
        ignoring = BLEU(lowercase=True).corpus_score(restored, [references]).score
        share = 100 * after[0] / ignoring
        print(
            f"{path}: BLEU {before[0]:.2f} -> {after[0]:.2f}, {share:.0f} % of lower-cased BLEU ({ignoring:.2f}); "
            f"chrF {before[1]:.2f} -> {after[1]:.2f}"
        )
    wrong = [pair for pair in zip(references, both) if pair[0] != pair[1]]
    for reference, text in random.Random(args.seed).sample(wrong, min(args.show, len(wrong))):
        print(f"    {reference}\n    {text}\n")


if __name__ == "__main__":
    main()
