"""Speed of every way to generate, side by side in one run, on the same sources and sizes.

    python benchmarks/speed.py                                   # base size, texts of 12 tokens, batches of 1, 8, 36
    python benchmarks/speed.py --name speed-32 --length 32 --modes nar "ar greedy" --systems onnx-int8 ctranslate2-int8
    python benchmarks/speed.py --name speed-512 --length 32 --source-length 512 --batches 1 8 --sentences 8 \
        --modes nar --systems torch-float32 plain

Our modes in torch and in onnxruntime; NAR as the reference formulates it (`plain`: a canvas as long as the batch's
longest source, all of it in one pass and with all its logits); fairseq's Transformer of the same size, and CTranslate2
with that Transformer's weights. Weights are random, so texts are made to have `--length` tokens; speed does not depend
on what they say (`systems.py`). Each system runs in a process of its own, with the same number of threads; in every
round all of them take turns, so that other work on the machine meets all alike. Sentences a second by the clock:
median and range of the rounds; CPU time, which other work disturbs less: the least of the rounds; passes of the decoder:
the mean of the texts; memory: the most that a process held, and on a GPU the most that torch allocated. Writes JSON, a
table and a picture to --out, and says which of the targets that it measured are reached (`report.py`).
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from report import cpu_name, draw, ratios, table, verdicts, versions, write_results  # noqa: E402
from systems import MODES, ON_GPUS, OTHERS, OURS, check, make_system, prepare, read_sources  # noqa: E402

from bang.errors import UserError, user_error_message  # noqa: E402


def work(pipe, name: str, args: argparse.Namespace, folder: Path, sources: list) -> None:
    """A process of one system: for each (mode, batch size, sentences) that it is sent, what it measured."""
    if name.startswith("ctranslate2"):
        os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    system, modes = make_system(name, args.arch, folder, args.threads, args.device), {}
    pipe.send("ready")
    for mode, size, count in iter(pipe.recv, None):
        generate = modes.setdefault(mode, system(mode))
        chosen = [sources[index * len(sources) // count] for index in range(count)]  # of all lengths
        texts, start, start_cpu = [], time.perf_counter(), time.process_time()
        for first in range(0, count, size):
            texts += generate(chosen[first : first + size], args.length)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        lengths, passes = zip(*texts)
        assert set(lengths) == {args.length}, f"{name}, {mode}: texts of {sorted(set(lengths))} tokens"
        pipe.send((seconds, cpu_seconds, statistics.mean(passes), most_memory(), most_gpu_memory(args.device)))


def most_gpu_memory(device: str) -> float | None:
    """GiB that torch has allocated on the GPU at most; None where there is none, or another library allocates."""
    torch = sys.modules.get("torch")
    if device == "cpu" or torch is None or not (most := torch.cuda.max_memory_allocated(device)):
        return None
    return most / 2**30


def most_memory() -> float:
    """GiB that this process has held at most; getrusage would count what the process that started it held, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def measure(args: argparse.Namespace, folder: Path, sources: list) -> list[dict]:
    """Runs all rounds: a row for each system, mode and batch size."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    cases = [(name, mode, size) for name in args.systems for mode in OTHERS.get(name, args.modes) for size in args.batches
             if mode in args.modes]  # fmt: skip
    for name in dict.fromkeys(name for name, _, _ in cases):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, name, args, folder, sources), daemon=True)
        process.start()
        there.close()
        assert here.recv() == "ready"
        workers[name] = (here, process)
        print(f"{name} is ready", file=sys.stderr)
    speeds, cpu, passes, memory = {case: [] for case in cases}, {case: [] for case in cases}, {}, {}
    for turn in range(-1, args.rounds):  # the first is a warm-up
        for case in cases:
            name, mode, size = case
            count = size * max(1, args.sentences // (size if size > 1 else 3)) if turn >= 0 else size
            pipe = workers[name][0]
            pipe.send((mode, size, count))
            seconds, cpu_seconds, passes[case], *memory[name] = pipe.recv()
            if turn >= 0:
                speeds[case].append(count / seconds)
                cpu[case].append(1000 * cpu_seconds / count)
        print(f"round {turn + 1} of {args.rounds}", file=sys.stderr)
    for pipe, process in workers.values():
        pipe.send(None)
        process.join()
    return [
        {
            "system": name, "mode": mode, "batch": size, "sentences_per_second": statistics.median(found),
            "lowest": min(found), "highest": max(found), "milliseconds_per_sentence": 1000 / statistics.median(found),
            "cpu_milliseconds_per_sentence": min(cpu[name, mode, size]), "passes": passes[name, mode, size],
            "peak_memory_gib": memory[name][0], "gpu_memory_gib": memory[name][1],
        }
        for (name, mode, size), found in speeds.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="bang_ar_nar_mixed_base", help="sizes (default: %(default)s)")
    parser.add_argument(
        "--systems",
        nargs="+",
        default=[*OURS, *OTHERS],
        choices=[*OURS, *ON_GPUS, *OTHERS],
        metavar="SYSTEM",
        help="of " + ", ".join([*OURS, *ON_GPUS, *OTHERS]) + " (default: all but the float16 ones)",
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        default=list(MODES),
        choices=list(MODES),
        metavar="MODE",
        help="of " + ", ".join(MODES) + " (default: all)",
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 36], metavar="N")
    parser.add_argument("--length", type=int, default=12, help="tokens of a text (default: %(default)s)")
    parser.add_argument("--source-length", type=int, metavar="S", help="join sources to this length (default: as they are)")
    parser.add_argument("--sources", type=Path, default=REPOSITORY / "examples" / "debian" / "test.src", metavar="FILE")
    parser.add_argument(
        "--sentences", type=int, default=36, help="of a round, in whole batches; at batch 1 a third (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--name", default="speed", help="of the files in DIR (default: %(default)s)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the exported models here for the next run")
    args = parser.parse_args()
    if args.source_length is not None and not 2 <= args.source_length <= 512:
        parser.error(f"--source-length {args.source_length}: from 2 to 512")
    for name in ("length", "sentences", "rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: give 1 or more")
    if min(args.batches) < 1:
        parser.error(f"--batches {min(args.batches)}: give 1 or more")

    try:  # all that can be wrong, before models are made and measured
        check(args.systems)
        sources = read_sources(args.sources, max(args.sentences, *args.batches), args.source_length)
        args.out.mkdir(exist_ok=True, parents=True)
    except (OSError, UserError) as error:
        sys.exit(f"{parser.prog}: error: {user_error_message(error)}")
    packages = versions("torch", "ve-fairseq", "fairseq", "onnxruntime", "onnxruntime-gpu", "ctranslate2", "numpy")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.cache or Path(scratch)
        folder.mkdir(exist_ok=True)
        prepare(args.systems, args.arch, folder)
        rows = measure(args, folder, sources)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "cache", "sources", "name")}
    report = {
        "settings": settings,
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()},
        "versions": packages,
        "source_tokens": {"mean": statistics.mean(map(len, sources)), "longest": len(sources[0])},
        "rows": rows,
        "ratios": ratios(rows),
    }
    report["targets"] = verdicts(report)
    draw(report, args.out / f"{args.name}.png")
    write_results(args.out, args.name, report, table(report))


if __name__ == "__main__":
    main()
