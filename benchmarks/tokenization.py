"""How much faster `bang tokenize` is than the published loop over lines, as whole commands.

    python benchmarks/tokenization.py raw/train.src --workers 1 2

Both run on the same file in turn, imports included, and their outputs are compared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PUBLISHED_LOOP = """
import sys
from transformers import BertTokenizer
vocab_file, in_file, out_file = sys.argv[1:]
pieces = [line.rsplit(" ", 1)[0] for line in open(vocab_file, encoding="utf-8", newline="\\n")]
tok = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})
with open(in_file, encoding="utf-8", newline="\\n") as f, open(out_file, "w", encoding="utf-8") as out:
    for line in f:
        out.write(" ".join(tok.tokenize(line.strip())) + "\\n")
"""


def seconds(command: list[str], runs: int) -> float:
    """Wall-clock seconds of a command, the best of several runs."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=REPOSITORY)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="raw text, one sentence a line")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count()])
    parser.add_argument("--runs", type=int, default=2, help="runs of each, of which the best counts")
    args = parser.parse_args()
    raw = args.file.resolve()
    with tempfile.TemporaryDirectory() as folder:
        loop_output = Path(folder, "loop")
        vocab = REPOSITORY / "vocab.txt"
        loop = seconds([sys.executable, "-c", PUBLISHED_LOOP, vocab, raw, loop_output], args.runs)
        print(f"{'published loop':24}{loop:8.2f} s", flush=True)
        for workers in args.workers:
            command = [sys.executable, "-m", "bang", "tokenize", "--out-dir", folder, raw, "--workers", str(workers)]
            ours = seconds(command, args.runs)
            same = Path(folder, raw.name).read_bytes() == loop_output.read_bytes()
            label = f"bang tokenize, {workers} worker{'s' * (workers > 1)}"
            verdict = "same output" if same else "DIFFERENT OUTPUT"
            print(f"{label:24}{ours:8.2f} s  {loop / ours:5.2f} times as fast, {verdict}", flush=True)


if __name__ == "__main__":
    main()
