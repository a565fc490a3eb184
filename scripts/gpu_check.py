"""Trains and decodes on a GPU in every precision and mode, and writes a report; scripts/gpu_check.sh calls it.

Each check is a command line as a user would give it, and they run side by side. After them one process measures
speeds, alone on the machine. A step that fails is reported with the last line that it printed, and the others go on.
"""

import argparse
import gc
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
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from check_steps import ROOT, Step, finish, keep_logs, run_step, start

from bang.text.files import replacing

PRECISIONS = {"float32": "", "fp16": "--fp16", "bf16": "--bf16", "amp": "--amp"}
DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
MODES = {
    "AR, beam 4": ("--task translation_bang --beam 4", dict(mode="ar", beam=4)),
    "AR, greedy": ("--task translation_bang --beam 1", dict(mode="ar", beam=1)),
    "speculative, drafts of 4": ("--task translation_bang --decoding speculative", dict(mode="speculative", draft_length=4)),
    "semi-NAR, blocks of 4": ("--task translation_bang --decoding semi-nar", dict(mode="semi-nar", block_size=4)),
    "NAR": ("--task translation_bang_nar", dict(mode="nar")),
}
"""How each is asked for, of fairseq-generate and of the API."""
BATCHES = {1: 16, 128: 3}
"""How many batches are timed, by the sentences in each."""
MODEL = "--arch bang_ar_nar_mixed_base"
TRAIN = (
    "--task translation_bang --truncate-source --max-source-positions 512 --max-target-positions 512 "
    "--criterion ngram_language_loss_NAR_mixed --nar-ratio 0.4 --semi-nar-ratio 0.3 --label-smoothing 0.1 "
    "--optimizer adam --clip-norm 0.1 --lr 0.0003 --lr-scheduler inverse_sqrt --warmup-updates 10 --max-tokens 8192 "
    "--disable-validation --no-epoch-checkpoints --num-workers 2 --log-format json --log-interval 1 --seed 1"
)
MEASURE = "--distributed-world-size 1 --no-save --max-update 30"
LENGTH = 24  # tokens of every text in the speed table: what a model writes after a few updates says nothing
GENERATE = f"--truncate-source --max-len-b {LENGTH} --min-len {LENGTH} --gen-subset test --num-workers 1 --quiet"


class Case(NamedTuple):
    """What is run; by default what takes a GPU."""

    model: str = MODEL  # and further options of every training
    precisions: dict[str, str] = PRECISIONS
    half: str = "fp16"  # precision under torchrun, and in which decoding is measured
    batches: dict[int, int] = BATCHES
    options: str = ""  # of every training and decoding


CASE = Case()


class Training(NamedTuple):
    """What a training run's log says."""

    first_loss: float  # mean of the first five updates, in bits for each token
    last_loss: float  # mean of the last five
    words_per_second: float  # median of the last two thirds


class Decoding(NamedTuple):
    """What a generation log says."""

    sentences: int
    seconds: float


def training_result(log: str) -> Training:
    """Reads the log of fairseq-train --log-format json.

    Raises:
        ValueError: it trained no update, or the loss did not fall.
    """
    records = [json.loads(line) for line in re.findall(r"\| train_inner \| (\{.*\})$", log, flags=re.M)]
    if not records:
        raise ValueError("no update was trained")
    losses = [float(record["loss"]) for record in records]
    speeds = [float(record["wps"]) for record in records[len(records) // 3 :]]
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


def count_of_tests(log: str) -> str:
    """The line in which pytest counts the tests; ValueError if none passed."""
    counts = re.findall(r"^\d+ (?:passed|failed|skipped|error|deselected).* in [\d.]+s", log, flags=re.M)
    if not counts or " passed" not in counts[-1]:
        raise ValueError(f"no test passed: {counts[-1] if counts else 'none ran'}")
    return counts[-1]


def speeds_result(log: str) -> dict[str, object]:
    """What `measure` printed, a `Training` or a `Decoding` by its name; what failed is left out."""
    parts, found = re.split(r"^measuring (.+)$", log, flags=re.M)[1:], {}
    for name, text in zip(parts[::2], parts[1::2]):
        with suppress(ValueError):
            found[name] = training_result(text) if name in PRECISIONS else decoding_result(text)
    return found


def prepare(folder: Path) -> tuple[Path, list[Step]]:
    """Binarizes examples/debian; where the data is."""
    data, pairs = folder / "data", ROOT / "examples" / "debian"
    files = " ".join(str(pairs / f"{split}.{side}") for split in ("train", "valid", "test") for side in ("src", "tgt"))
    return data, [
        run_step("tokenize", f"-m bang tokenize --out-dir {folder} {files}"),
        run_step("binarize", f"-m bang binarize {folder} {data}"),
    ]


def gpu_tests() -> Step:
    """Runs the tests marked gpu; only the files that have some, since others may need more packages."""
    files = sorted(str(file) for file in (ROOT / "tests").glob("test_*.py") if "mark.gpu" in file.read_text(encoding="utf-8"))
    options = "-p no:cacheprovider" + (" -n 4" if find_spec("xdist") else "")
    return run_step("GPU tests", f"-m pytest -q -m gpu {options} {' '.join(files)}", count_of_tests)


def train(name: str, data: Path, save_dir: Path, options: str, case: Case, launcher: str = "-m") -> Step:
    """Trains a model, in small batches since several share the GPU; `launcher` ends where the module's name begins."""
    options = f"{TRAIN} --max-tokens 4096 {options} {case.model} {case.options}"
    return run_step(name, f"{launcher} fairseq_cli.train {data} --user-dir bang --save-dir {save_dir} {options}", training_result)


def torchrun(data: Path, save_dir: Path, case: Case) -> list[Step]:
    """Trains under torchrun, and goes on from where that ended."""
    launcher = "-m torch.distributed.run --nproc_per_node 1 --master_port 29511 -m"
    options = f"{case.precisions[case.half]} --distributed-world-size 1 --max-update"
    return [
        train("torchrun", data, save_dir, f"{options} 10", case, launcher),
        train("torchrun, resumed", data, save_dir, f"{options} 30", case, launcher),
    ]


def generate(name: str, data: Path, checkpoint: Path, options: str, case: Case) -> Step:
    """Decodes one of three parts of the test split."""
    options = f"{GENERATE} --batch-size 128 --num-shards 3 --shard-id 0 {options} {case.options}"
    return run_step(name, f"-m fairseq_cli.generate {data} --user-dir bang --path {checkpoint} {options}", decoding_result)


def measure(data: str, checkpoint: str, case: Case) -> None:
    """Measures speeds once its standard input is closed, and prints them as fairseq's command lines do."""
    from fairseq_cli.train import main as fairseq_train  # first: it sets up how logs are printed

    # isort: split
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import bang.plugin  # noqa: F401
    from bang.inference.api import Bang
    from bang.options import Options

    def train(option: str) -> None:
        command = f"{data} --user-dir bang --save-dir {data} {TRAIN} {MEASURE} {option} {case.model} {case.options}"
        parsed = options.parse_args_and_arch(options.get_training_parser(), shlex.split(command))
        fairseq_train(convert_namespace_to_omegaconf(parsed))

    def load():
        model = Bang.load(checkpoint, dtype=DTYPES[case.half], device="cpu" if "--cpu" in case.options else None)
        ids = {piece: index for index, piece in enumerate(model.pieces)}
        lines = (Path(data).parent / "test.src").read_text(encoding="utf-8").splitlines()
        return model.engine, [np.array([ids[piece] for piece in line.split()[:511]] + [ids["[SEP]"]]) for line in lines]

    def decode(engine, sources: list[np.ndarray], mode: str, size: int) -> None:
        how = Options(**MODES[mode][1], min_len=LENGTH, max_len=LENGTH)
        batches = np.resize(np.arange(len(sources)), (case.batches[size], size))
        for part in (batches[:2], batches):  # the first is a warm-up
            begin = time.perf_counter()
            lengths = [len(text.tokens) for batch in part for text in engine.generate([sources[i] for i in batch], how)]
        seconds = time.perf_counter() - begin
        if set(lengths) != {LENGTH}:
            raise ValueError(f"texts of {min(lengths)} to {max(lengths)} tokens, not {LENGTH}")
        print(f"Translated {len(lengths)} sentences ({sum(lengths)} tokens) in {seconds:.4f}s")

    failed = []

    def attempt(name: str, function, *arguments):
        print(f"measuring {name}")
        try:
            return function(*arguments)
        except (Exception, SystemExit):
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
        finally:
            gc.collect()
            torch.cuda.empty_cache()

    sys.stdin.read()
    for precision, option in case.precisions.items():
        attempt(precision, train, option)
    loaded = attempt("loading", load)
    for mode in MODES if loaded else ():
        for size in case.batches:
            attempt(f"{mode}, batch {size}", decode, *loaded, mode, size)
    if failed:
        sys.exit(f"not measured: {'; '.join(failed)}")


def machine() -> list[str]:
    """What the numbers were measured on, a line each."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory, capability = f"{properties.total_memory / 2**30:.0f} GiB", f"{properties.major}.{properties.minor}"
        device = f"{properties.name}, {memory}, compute capability {capability}"
    else:
        device = "no GPU"
    versions = {"torch": torch.__version__, "CUDA": torch.version.cuda, "Python": platform.python_version()}
    for package in ("ve-fairseq", "omegaconf", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    commit = ""
    with suppress(FileNotFoundError):  # there may be no git
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return [
        f"GPU: {device}; CPU: {len(os.sched_getaffinity(0))} cores",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"this repository at {commit or 'an unknown commit'}",
    ]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table, the first column to the left."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in (head, rule, *rows)]


def report(about: list[str], steps: list[Step], trained: dict[str, Step], speeds: dict[str, object], seconds: float) -> str:
    """The text of docs/gpu.md.

    Args:
        about: see `machine`.
        steps: all of them, in order.
        trained: by precision.
        speeds: see `speeds_result`.
        seconds: from the first step's begin to the last one's end.
    """
    lines = ["# On a GPU", "", "Written by `scripts/gpu_check.sh`.", "", *(f"* {line}" for line in about), "", "## Checks", ""]
    lines += [f"{seconds:.0f} seconds in all. The checks run side by side; speeds are measured after them, alone.", ""]
    outcomes = [(s.error or "passed") + (f" ({s.result})" if isinstance(s.result, str) else "") for s in steps]
    lines += table(["step", "outcome", "seconds"], [[s.name, outcome, f"{s.seconds:.0f}"] for s, outcome in zip(steps, outcomes)])
    lines += ["", "## Training", "", f"`{MODEL}`, mixed modes, examples/debian: speed with batches of up to 8,192 tokens,"]
    lines += ["losses of the checks, with half as many.", ""]
    rows = []
    for precision, step in trained.items():
        speed = speeds.get(precision)
        losses = [f"{step.result.first_loss:.2f}", f"{step.result.last_loss:.2f}"] if step.result else ["failed", "failed"]
        rows.append([precision, f"{speed.words_per_second:,.0f}" if speed else "failed", *losses])
    lines += table(["precision", "target words/s", "first loss", "last loss"], rows)
    lines += [
        "",
        "## Decoding",
        "",
        f"The same size in fp16, texts of {LENGTH} tokens each, without the time of text to ids and back.",
        "",
    ]
    rows = []
    for mode in MODES:
        results = {size: speeds.get(f"{mode}, batch {size}") for size in BATCHES}
        rows.append([mode, *("failed" if result is None else f"{1000 * result.seconds / result.sentences:.1f}" if size == 1
                             else f"{result.sentences / result.seconds:,.0f}" for size, result in results.items())])  # fmt: skip
    heads = ["ms/sentence, batch 1" if size == 1 else f"sentences/s, batch {size}" for size in BATCHES]
    return "\n".join([*lines, *table(["mode", *heads], rows)]) + "\n"


def check(folder: Path, updates: int = 40, case: Case = CASE) -> tuple[list[Step], dict[str, Step], dict[str, object]]:
    """All steps; see `report` for what comes back."""
    with ThreadPoolExecutor(max(1, min(12, len(os.sched_getaffinity(0)) - 2))) as pool:
        tests = pool.submit(gpu_tests)
        data, steps = prepare(folder)
        checkpoints = {precision: folder / precision / "checkpoint_last.pt" for precision in case.precisions}
        small = f"--max-update {updates} --no-save-optimizer-state"  # nothing resumes them
        trainings = {
            pool.submit(train, f"train, {precision}", data, folder / precision, f"{option} {small}", case): precision
            for precision, option in case.precisions.items()
        }
        resumed = pool.submit(torchrun, data, folder / "torchrun", case)
        decodings = []
        for precision in map(trainings.get, as_completed(trainings)):
            option = "" if precision == "amp" else case.precisions[precision]  # amp's weights are float32
            for mode, (how, _) in MODES.items() if checkpoints[precision].exists() else ():
                name = f"decode, {precision}, {mode}"
                decodings.append(pool.submit(generate, name, data, checkpoints[precision], f"{how} {option}", case))
        call = f"measure({str(data)!r}, {str(checkpoints[case.half])!r}, {case!r})"
        measuring = start(f"-c {shlex.quote(f'from gpu_check import Case, measure; {call}')}")  # imports, and waits
    steps += [tests.result(), *(step.result() for step in trainings), *resumed.result(), *(step.result() for step in decodings)]
    steps.append(finish("speeds", measuring, speeds_result))
    return steps, {precision: step.result() for step, precision in trainings.items()}, steps[-1].result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="docs/gpu.md", metavar="FILE", help="where the report goes (default: %(default)s)")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep all that the failed steps printed here, a file each")
    parser.add_argument(
        "--updates", type=int, default=40, metavar="N", help="of each training that is checked (default: %(default)s)"
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"{parser.prog}: error: no GPU that torch can use")
    about, begin = machine(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        steps, trained, speeds = check(Path(folder), args.updates)
        seconds = time.perf_counter() - begin
    failed = [step for step in steps if step.error]
    if args.logs:
        keep_logs(failed, args.logs)
    text = report(about, steps, trained, speeds, seconds)
    with replacing(args.out) as file:
        file.write(text.encode())
    print(text)
    if failed:
        sys.exit(f"{parser.prog}: error: {len(failed)} of {len(steps)} steps failed, the first: {failed[0].name}; see {args.out}")


if __name__ == "__main__":
    main()
