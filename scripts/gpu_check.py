"""Trains and decodes on a GPU in every precision and mode, and writes a report; scripts/gpu_check.sh calls it.

Each step is a command line as a user would give it. A step that fails is reported with the last line that it
printed, and the others go on.
"""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, Optional

import torch

from bang.text.files import replacing

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = {"float32": "", "fp16": "--fp16", "bf16": "--bf16", "amp": "--amp"}
DECODINGS = {
    "AR, beam 4": "--task translation_bang --beam 4",
    "AR, greedy": "--task translation_bang --beam 1",
    "speculative, drafts of 4": "--task translation_bang --decoding speculative",
    "semi-NAR, blocks of 4": "--task translation_bang --decoding semi-nar",
    "NAR": "--task translation_bang_nar",
}
BATCHES = (1, 128)
MODEL = "--arch bang_ar_nar_mixed_base"
TRAIN = (
    "--task translation_bang --truncate-source --max-source-positions 512 --max-target-positions 512 "
    "--criterion ngram_language_loss_NAR_mixed --nar-ratio 0.4 --semi-nar-ratio 0.3 --label-smoothing 0.1 "
    "--optimizer adam --clip-norm 0.1 --lr 0.0003 --lr-scheduler inverse_sqrt --warmup-updates 10 --max-tokens 8192 "
    "--disable-validation --no-epoch-checkpoints --num-workers 2 --log-format json --log-interval 1 --seed 1"
)
LENGTH = 24  # tokens of every text in the speed table: what a model writes after a few updates says nothing
GENERATE = f"--truncate-source --max-len-b {LENGTH} --min-len {LENGTH} --gen-subset test --num-workers 1 --quiet"


class Training(NamedTuple):
    """What a training run's log says."""

    first_loss: float  # mean of the first five updates, in bits for each token
    last_loss: float  # mean of the last five
    words_per_second: float  # median of the second half


class Decoding(NamedTuple):
    """What a generation log says."""

    sentences: int
    seconds: float


class Step(NamedTuple):
    """A command line and how it ended."""

    name: str
    seconds: float
    error: Optional[str]  # None: it passed
    result: object = None


def training_result(log: str) -> Training:
    """Reads the log of fairseq-train --log-format json.

    Raises:
        ValueError: it trained no update, or the loss did not fall.
    """
    records = [json.loads(line) for line in re.findall(r"\| train_inner \| (\{.*\})$", log, flags=re.M)]
    if not records:
        raise ValueError("no update was trained")
    losses = [float(record["loss"]) for record in records]
    speeds = [float(record["wps"]) for record in records[len(records) // 2 :]]
    result = Training(statistics.mean(losses[:5]), statistics.mean(losses[-5:]), statistics.median(speeds))
    if not result.last_loss < result.first_loss:  # nor where it is no number
        raise ValueError(f"the loss did not fall: {result.first_loss:.2f} to {result.last_loss:.2f}")
    return result


def decoding_result(log: str) -> Decoding:
    """Reads the log of fairseq-generate; ValueError if it says of no sentence."""
    found = re.search(r"Translated ([\d,]+) sentences \(.*? in ([\d.]+)s", log)
    if found is None or found[1] == "0":
        raise ValueError("no sentence was translated")
    return Decoding(int(found[1].replace(",", "")), float(found[2]))


def run_step(name: str, command: str, read=None) -> Step:
    """Runs a Python command line, `-m MODULE ARGUMENT ...`, and reads what it prints."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *shlex.split(command)], capture_output=True, text=True, cwd=ROOT)
    seconds, output = time.perf_counter() - start, done.stdout + done.stderr
    if done.returncode:
        return Step(name, seconds, (output.strip().splitlines() or ["nothing printed"])[-1])
    try:
        return Step(name, seconds, None, read(output) if read else None)
    except ValueError as error:
        return Step(name, seconds, str(error))


def prepare(folder: Path) -> tuple[Path, list[Step]]:
    """Binarizes examples/debian; where the data is."""
    data, pairs = folder / "data", ROOT / "examples" / "debian"
    files = " ".join(str(pairs / f"{split}.{side}") for split in ("train", "valid", "test") for side in ("src", "tgt"))
    prefixes = " ".join(f"--{split}pref {folder / split}" for split in ("train", "valid", "test"))
    vocabulary = f"--srcdict {ROOT / 'vocab.txt'} --tgtdict {ROOT / 'vocab.txt'}"
    return data, [
        run_step("tokenize", f"-m bang tokenize --out-dir {folder} {files}"),
        run_step(
            "binarize",
            f"-m fairseq_cli.preprocess --user-dir bang --task translation_bang --source-lang src --target-lang tgt "
            f"{prefixes} --destdir {data} {vocabulary}",
        ),
    ]


def train(name: str, data: Path, save_dir: Path, options: str, launcher: str = "-m", model: str = MODEL) -> Step:
    """Trains a model; `launcher` ends where the module's name begins."""
    command = f"{launcher} fairseq_cli.train {data} --user-dir bang {model} {TRAIN} --save-dir {save_dir} {options}"
    return run_step(name, command, training_result)


def generate(name: str, data: Path, checkpoint: Path, options: str, shards: int = 3) -> Step:
    """Decodes one of `shards` parts of the test split."""
    parts = f"--num-shards {shards} --shard-id 0"
    return run_step(
        name, f"-m fairseq_cli.generate {data} --user-dir bang --path {checkpoint} {GENERATE} {parts} {options}", decoding_result
    )


def machine() -> list[str]:
    """What the numbers were measured on, a line each."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {properties.major}.{properties.minor}"
    else:
        device = "no GPU"
    versions = {"torch": torch.__version__, "CUDA": torch.version.cuda, "Python": platform.python_version()}
    for package in ("ve-fairseq", "omegaconf", "numpy"):
        versions[package] = metadata.version(package)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return [
        f"GPU: {device}; CPU: {len(os.sched_getaffinity(0))} cores",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"this repository at {commit or 'an unknown commit'}",
    ]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table, the first column to the left."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def report(about: list[str], steps: list[Step], trained: dict[str, Step], decoded: dict[tuple[str, int], Step]) -> str:
    """The text of docs/gpu.md.

    Args:
        about: see `machine`.
        steps: all of them, in order.
        trained: by precision.
        decoded: by mode and batch size.
    """
    lines = ["# On a GPU", "", "Written by `scripts/gpu_check.sh`.", "", *(f"* {line}" for line in about), "", "## Checks", ""]
    lines += table(["step", "outcome", "seconds"], [[s.name, s.error or "passed", f"{s.seconds:.0f}"] for s in steps])
    lines += ["", "## Training", "", f"`{MODEL}`, mixed modes, batches of up to 8,192 tokens, examples/debian.", ""]
    rows = [[name, f"{s.result.words_per_second:,.0f}", f"{s.result.first_loss:.2f}", f"{s.result.last_loss:.2f}"]
            for name, s in trained.items() if s.result]
    lines += table(["precision", "target words/s", "first loss", "last loss"], rows)
    lines += ["", "## Decoding", "", f"The same size in fp16, texts of {LENGTH} tokens each.", ""]
    rows = []
    for mode in dict.fromkeys(mode for mode, _ in decoded):
        cells = [mode]
        for batch in sorted(batch for other, batch in decoded if other == mode):
            result = decoded[mode, batch].result
            cells += [f"{1000 * result.seconds / result.sentences:.1f}" if batch == 1
                      else f"{result.sentences / result.seconds:.0f}"] if result else ["failed"]  # fmt: skip
        rows.append(cells)
    heads = ["ms/sentence, batch 1" if batch == 1 else f"sentences/s, batch {batch}" for batch in sorted({b for _, b in decoded})]
    return "\n".join([*lines, *table(["mode", *heads], rows)]) + "\n"


def check(folder: Path, updates: int = 60) -> tuple[list[Step], dict[str, Step], dict[tuple[str, int], Step]]:
    """All steps; see `report` for what comes back."""
    data, steps = prepare(folder)
    tests = [str(file) for file in (ROOT / "tests").glob("test_*.py") if "mark.gpu" in file.read_text(encoding="utf-8")]
    steps.append(run_step("GPU tests", f"-m pytest -q -m gpu {' '.join(tests)}"))  # other files may need more packages
    trained, decoded = {}, {}
    for precision, option in PRECISIONS.items():
        save_dir = folder / precision
        trained[precision] = train(f"train, {precision}", data, save_dir, f"{option} --max-update {updates}")
        steps.append(trained[precision])
        decode = "" if precision == "amp" else option  # its weights are float32
        for mode, how in DECODINGS.items():
            steps.append(
                generate(f"decode, {precision}, {mode}", data, save_dir / "checkpoint_last.pt", f"{how} {decode} --batch-size 128")
            )
            if precision == "fp16":
                decoded[mode, 128] = steps[-1]
    launcher = "-m torch.distributed.run --nproc_per_node 1 --master_port 29511 -m"
    steps.append(train("torchrun", data, folder / "torchrun", "--fp16 --distributed-world-size 1 --max-update 10", launcher))
    steps.append(train("torchrun, resumed", data, folder / "torchrun", "--fp16 --distributed-world-size 1 --max-update 40", launcher))
    for mode, how in DECODINGS.items():
        decoded[mode, 1] = generate(
            f"decode one by one, {mode}", data, folder / "fp16" / "checkpoint_last.pt", f"{how} --fp16 --batch-size 1"
        )
        steps.append(decoded[mode, 1])
    return steps, trained, decoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="docs/gpu.md", metavar="FILE", help="where the report goes (default: %(default)s)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"{parser.prog}: error: no GPU that torch can use")
    with tempfile.TemporaryDirectory() as folder:
        steps, trained, decoded = check(Path(folder))
    text = report(machine(), steps, trained, decoded)
    with replacing(args.out) as file:
        file.write(text.encode())
    print(text)
    failed = [step.name for step in steps if step.error]
    if failed:
        sys.exit(f"{parser.prog}: error: {len(failed)} of {len(steps)} steps failed, the first: {failed[0]}; see {args.out}")


if __name__ == "__main__":
    main()
