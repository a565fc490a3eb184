"""Time of a training update, of one checkout of this repository against others, in turn.

    git worktree add ../before COMMIT
    python benchmarks/training.py . ../before:--bf16 --updates 24 --rounds 2

Trains a 6 + 3 layer model of width 384 on examples/debian with fairseq-train, half of the updates AR and half
NAR, about 46 pairs each, with the same seed everywhere. Behind a colon stand further options of that checkout.
The first third of the updates warms up and is not timed; of the others the median counts. JSON goes to --out.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = (
    "--task translation_bang --arch bang_ar_nar_mixed --share-all-embeddings --encoder-layers 6 --decoder-layers 3 "
    "--encoder-attention-heads 12 --decoder-attention-heads 12 --encoder-embed-dim 384 --decoder-embed-dim 384 "
    "--encoder-ffn-embed-dim 1536 --decoder-ffn-embed-dim 1536 --activation-fn gelu --dropout 0.1 --truncate-source "
    "--max-source-positions 512 --max-target-positions 512 --criterion ngram_language_loss_NAR_mixed --nar-ratio 0.5 "
    "--label-smoothing 0.1 --optimizer adam --clip-norm 1.0 --lr 0.0005 --max-tokens 1900 --num-workers 1 --seed 1 "
    "--disable-validation --no-save --log-format json --log-interval 1"
).split()


def prepare(folder: Path) -> Path:
    """Binarizes examples/debian."""
    data, pairs, bang = folder.resolve() / "data", ROOT / "examples" / "debian", [sys.executable, "-m", "bang"]
    files = [pairs / f"{split}.{side}" for split in ("train", "valid") for side in ("src", "tgt")]
    subprocess.run([*bang, "tokenize", "--out-dir", folder, *files], check=True, cwd=ROOT)
    subprocess.run([*bang, "binarize", folder, data], check=True, capture_output=True, cwd=ROOT)
    return data


def train(checkout: str, data: Path, updates: int) -> dict:
    """Trains with one checkout; seconds of an update and the loss of each.

    Args:
        checkout: folder, or folder:options.
    """
    folder, _, options = checkout.partition(":")
    if not (Path(folder) / "bang").is_dir():
        raise ValueError(f"{folder}: no checkout of this repository, it has no folder bang")
    command = [sys.executable, "-m", "fairseq_cli.train", data, "--user-dir", Path(folder).resolve() / "bang"]
    command += [*OPTIONS, "--max-update", str(updates), *options.split()]
    if not torch.cuda.is_available():
        command.append("--cpu")
    # Python looks for bang in the working directory before it looks in PYTHONPATH.
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise ValueError(f"{checkout}: fairseq-train failed: {done.stderr.strip().splitlines()[-1]}")
    records = [json.loads(line) for line in re.findall(r"\| train_inner \| (\{.*\})$", done.stdout, flags=re.M)]
    timed = records[len(records) // 3 :]
    return {
        "checkout": checkout,
        "seconds": statistics.median(float(record["wpb"]) / float(record["wps"]) for record in timed),
        "pairs": statistics.mean(float(record["bsz"]) for record in timed),
        "losses": [float(record["loss"]) for record in records],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", metavar="CHECKOUT[:OPTIONS]")
    parser.add_argument("--updates", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", metavar="FILE", help="JSON of all runs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder))
        try:
            runs = [train(checkout, data, args.updates) for _ in range(args.rounds) for checkout in args.checkouts]
        except ValueError as error:
            sys.exit(f"{parser.prog}: error: {error}")
    seconds = {c: [run["seconds"] for run in runs if run["checkout"] == c] for c in args.checkouts}
    base = statistics.median(seconds[args.checkouts[-1]])
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for checkout in args.checkouts:
        losses = next(run["losses"] for run in runs if run["checkout"] == checkout)
        print(
            f"{checkout}: {statistics.median(seconds[checkout]):.2f} s an update "
            f"({min(seconds[checkout]):.2f} to {max(seconds[checkout]):.2f}), {statistics.median(seconds[checkout]) / base:.2f} "
            f"of the last; losses {losses[0]:.3f} … {statistics.mean(losses[-4:]):.3f} (mean of the last four)"
        )
    if args.out:
        Path(args.out).write_text(json.dumps({"torch": torch.__version__, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
