"""Lines an hour and core: `bang generate` on a file, by mode and by how the cores are shared out, and Ray Data beside it.

    python benchmarks/bulk.py exported raw/test.src --rows 1000 --modes nar "ar greedy" --ray

The rows are the file's lines, repeated with a number. Every run is a process of its own; what it takes with one row, to
start and to load the model, is taken off. Core hours are of the processes' CPU time, which other work on the machine hardly
changes; seconds are wall time. Writes bulk.json and a table, bulk.md, into --out.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from report import cpu_name, versions, write_results  # noqa: E402

from bang.errors import exit_on_mistakes  # noqa: E402
from bang.text.files import read_lines  # noqa: E402

MODES = {
    "nar": ["--mode", "nar", "--link", "none"],
    "nar, link": ["--mode", "nar"],
    "semi-nar": ["--mode", "semi-nar", "--block-size", "4", "--link", "none"],
    "ar greedy": ["--mode", "ar", "--beam", "1"],
    "ar, beam 4": ["--mode", "ar", "--beam", "4"],
}
GENERATE, RAY = "bang generate", "Ray Data"


def write_rows(path: Path, texts: list[str], count: int) -> None:
    """A JSONL file, or a Parquet one, of so many numbered texts."""
    rows = [{"id": number, "text": f"{text} {number}"} for number, text in zip(range(count), itertools.cycle(texts))]
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def timed(command: list, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command and of what it started and waited for."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": "local"}
    begin = time.perf_counter()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "log").read_text(encoding="utf-8")[-2000:])
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime


def command(way: str, options: list[str], model: str, workers: int, threads: int, folder: Path, count: int) -> list:
    """What generates for a file of so many rows."""
    if way == RAY:
        script = REPOSITORY / "examples" / "ray_bulk.py"
        return [sys.executable, script, model, folder / f"{count}.parquet", folder / "out", workers]
    words = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "bang",
        "generate",
        model,
        *options,
        "--workers",
        workers,
        "--threads",
        threads,
    ]
    return [*words, "--input", folder / f"{count}.jsonl", "--output", folder / "out.jsonl"]


def table(report: dict) -> str:
    lines = ["| mode | by | processes × threads | lines/s | lines an hour and core |", "| --- " * 5 + "|"]
    for row in report["rows"]:
        an_hour = f"{row['lines per core hour']:,.0f}" if row["lines per core hour"] else ""
        shared = f"{row['workers']} × {row['threads']}"
        lines.append(f"| {row['mode']} | {row['by']} | {shared} | {row['lines per second']:.1f} | {an_hour} |")
    told = f"{report['count']} rows, {report['machine']}. Lines/s are wall time, and depend on what else the machine does."
    return "\n".join([*lines, "", told]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a folder of bang export")
    parser.add_argument("texts", metavar="FILE", help="raw texts, one a line")
    parser.add_argument("--rows", type=int, default=2000, metavar="N")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))], metavar="N")
    parser.add_argument("--rounds", type=int, default=1, help="times that all is run, in turn; the best counts")
    parser.add_argument("--ray", action="store_true", help="Ray Data too, with the most workers, in NAR")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results", metavar="DIR")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    cases = [(mode, GENERATE, workers) for mode in args.modes for workers in args.workers]
    if args.ray:
        cases.append(("nar, link", RAY, max(args.workers)))  # what the example runs
    found: dict[tuple, list] = {case: [] for case in cases}
    with exit_on_mistakes(parser.prog), tempfile.TemporaryDirectory() as scratch:
        folder, texts = Path(scratch), list(read_lines(args.texts))
        for count, ending in itertools.product((1, args.rows), [".jsonl", *([".parquet"] if args.ray else [])]):
            write_rows(folder / f"{count}{ending}", texts, count)
        for _, case in itertools.product(range(args.rounds), cases):
            mode, way, workers = case
            of = (way, MODES[mode], args.model, workers, max(cores // workers, 1), folder)
            one, all_rows = timed(command(*of, 1), folder), timed(command(*of, args.rows), folder)
            found[case].append([b - a for a, b in zip(one, all_rows)])
            print(case, found[case][-1], file=sys.stderr)
    rows = []
    for (mode, way, workers), times in found.items():
        wall, cpu = (min(column) for column in zip(*times))
        rows.append({
            "mode": mode, "by": way, "workers": workers, "threads": 1 if way == RAY else max(cores // workers, 1),
            "lines per second": (args.rows - 1) / wall,
            "lines per core hour": (args.rows - 1) / cpu * 3600 if way == GENERATE else None,
        })  # fmt: skip
    report = {
        "model": Path(args.model).name, "count": args.rows, "machine": f"{cpu_name()}, {cores} cores", "rows": rows,
        "versions": versions("onnxruntime", "numpy", "pyarrow", "ray"),
    }  # fmt: skip
    write_results(args.out, "bulk", report, table(report))


if __name__ == "__main__":
    main()
