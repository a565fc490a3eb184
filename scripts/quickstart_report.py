"""The quick start's table: quality and speed of AR and NAR, and some of their texts side by side.

    python scripts/quickstart_report.py quickstart-run examples/debian/test.src examples/debian/test.tgt
"""

import argparse
import re
from pathlib import Path

from rouge import rouge

MODES = {"ar": "AR, beam 4", "nar": "NAR, one pass"}
SHOWN = 6  # sentences


def seconds(log: Path) -> tuple[float, int]:
    """Decoding time and number of sentences, as fairseq-generate reports them."""
    count, time = re.search(r"Translated ([\d,]+) sentences .* in ([\d.]+)s", log.read_text()).groups()
    return float(time), int(count.replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the quick start's folder")
    parser.add_argument("source", type=Path, help="raw source text of the test part")
    parser.add_argument("reference", type=Path, help="raw target text of the test part")
    args = parser.parse_args()
    print(f"{'':14} ROUGE-1 ROUGE-2 ROUGE-L   ms/sentence   sentences/s   distinct")
    print(f"{'':40}   (batch 1)     (batch 36)    texts")
    texts = {}
    for mode, name in MODES.items():
        scores = rouge(args.run / f"{mode}.36.txt", args.reference)
        alone, count = seconds(args.run / f"{mode}.1.log")
        together, _ = seconds(args.run / f"{mode}.36.log")
        texts[name] = (args.run / f"{mode}.36.txt").read_text(encoding="utf-8").split("\n")[:-1]
        columns = "".join(f"{score:8.2f}" for score in scores.values())
        distinct = f"{len(set(texts[name]))}/{count}"
        print(f"{name:14}{columns}{1000 * alone / count:14.1f}{count / together:14.1f}{distinct:>11}")
    texts = {
        "source": args.source.read_text(encoding="utf-8").split("\n")[:-1],
        "reference": args.reference.read_text(encoding="utf-8").split("\n")[:-1],
        **texts,
    }
    for sentence in range(0, len(texts["source"]), -(-len(texts["source"]) // SHOWN)):
        print()
        for name, lines in texts.items():
            print(f"{name:14} {lines[sentence]}")


if __name__ == "__main__":
    main()
