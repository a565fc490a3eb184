"""What a model writes in each way of decoding: quality, speed, and texts side by side; then what is typed.

    python scripts/quickstart_report.py quickstart-run/checkpoints/checkpoint_best.pt examples/debian/test.src \\
        examples/debian/test.tgt
"""

import argparse
import logging
import sys
import time

from bang.errors import exit_on_mistakes
from bang.inference.api import Bang
from bang.text.cleanup import clean_up
from bang.text.evaluate import evaluate, read_texts, warn_of_equal_texts

WAYS = {  # name in the table: arguments of Bang.generate
    "AR, beam 4": {"mode": "ar", "beam": 4, "len_penalty": 1.2},
    "AR greedy": {"mode": "ar", "beam": 1},
    "AR greedy, drafted": {"mode": "speculative", "draft_length": 4},
    "semi-NAR, blocks of 4": {"mode": "semi-nar", "block_size": 4, "link": False},
    "NAR, one pass": {"mode": "nar", "link": False},
    "semi-NAR with a link": {"mode": "semi-nar", "block_size": 4, "link": True},
    "NAR with a link": {"mode": "nar", "link": True},
}
LIMIT = {"max_len": 40}  # word pieces
WARM_UP = 3  # sentences before the clock runs
SHOWN = 6  # sentences
COLUMN = 23


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint, or folder of bang pack")
    parser.add_argument("source", help="raw source texts of the test part, one a line")
    parser.add_argument("reference", help="their raw target texts")
    parser.add_argument("--timed", type=int, default=60, metavar="N", help="sentences to time one by one (default %(default)s)")
    parser.add_argument("--ask", action="store_true", help="then generate for each line of standard input")
    args = parser.parse_args()
    with exit_on_mistakes(parser.prog):
        model = Bang.load(args.model)
        sources, references = read_texts(args.source), read_texts(args.reference)
        trained = model.engine.shares or dict.fromkeys(model.modes)
        drafts = {"ar", "semi-nar"} <= trained.keys()
        ways = [
            name
            for name, way in WAYS.items()
            if way["mode"] in trained or (way["mode"] == "speculative" and drafts and "speculative" in model.modes)
        ]
        if model.engine.link is None:
            ways = [name for name in ways if not WAYS[name].get("link")]
        logging.getLogger("bang").setLevel(logging.ERROR)  # of a cut source each call would tell again
        texts = report(model, ways, sources, references, args.timed)
        for name, lines in texts.items():
            if warning := warn_of_equal_texts(lines):
                print(f"{name}: {warning}")
        show(texts, sources, references)
        if args.ask:
            ask(model, ways)


def report(model: Bang, ways: list[str], sources: list[str], references: list[str], timed: int) -> dict[str, list[str]]:
    """Prints the table; returns the texts of each way."""
    print(f"{'':{COLUMN}} ROUGE-1 ROUGE-2 ROUGE-L   ms/sentence   sentences/s   distinct")
    print(f"{'':{COLUMN}}                           (one by one)    (batches)    texts")
    texts = {}
    for name in ways:
        list(write(model, name, sources[:WARM_UP], one_by_one=True))
        start = time.perf_counter()
        alone = len(list(write(model, name, sources[:timed], one_by_one=True)))
        middle = time.perf_counter()
        found = list(write(model, name, sources))
        seconds = time.perf_counter() - middle
        published = [clean_up(" ".join(generation.pieces)) for generation in found]  # as post_processed_nar.py
        scores = evaluate({name: published}, references, ["rouge"])["systems"][name]
        texts[name] = [generation.text for generation in found]
        columns = "".join(f"{scores[metric]:8.2f}" for metric in ("ROUGE-1", "ROUGE-2", "ROUGE-L"))
        distinct = f"{len(set(texts[name]))}/{len(sources)}"
        print(
            f"{name:{COLUMN}}{columns}{1000 * (middle - start) / alone:14.1f}{len(sources) / seconds:14.1f}{distinct:>11}",
            flush=True,
        )
    return texts


def write(model: Bang, way: str, sources: list[str], one_by_one: bool = False):
    """Generations for the sources, in batches or each on its own."""
    for group in [[source] for source in sources] if one_by_one else [sources]:
        yield from model.generate(group, **WAYS[way], **LIMIT, details=True, truncate=True)


def show(texts: dict[str, list[str]], sources: list[str], references: list[str]) -> None:
    """Prints some sentences with what was written of them."""
    rows = {"source": sources, "reference": references, **texts}
    for sentence in range(0, len(sources), -(-len(sources) // SHOWN)):
        print()
        for name, lines in rows.items():
            print(f"{name:{COLUMN}} {lines[sentence]}")


def ask(model: Bang, ways: list[str]) -> None:
    """Generates for what is typed, until the end of the input."""
    if sys.stdin.isatty():
        print("\nType a description, 20 to 40 words; an empty line or Ctrl-D ends.")
    while True:
        print("\n> " if sys.stdin.isatty() else "\n", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            break
        for name in ways:
            start = time.perf_counter()
            generation = next(write(model, name, [line]))
            print(f"{name:{COLUMN}} {generation.text}   ({1000 * (time.perf_counter() - start):.0f} ms)", flush=True)


if __name__ == "__main__":
    main()
