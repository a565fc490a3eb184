"""Command lines as steps of a check: run, ended when they take too long, and told by how they ended."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 120  # seconds that a step may take, unless told otherwise


class Step(NamedTuple):
    """A command line and how it ended."""

    name: str
    seconds: float
    error: str | None  # None: it passed
    result: object = None  # what its output says, though it may have failed
    output: str = ""


class Running(NamedTuple):
    """A step that has begun, and the file that it prints to."""

    process: subprocess.Popen
    output: IO[str]


def start(command: str, **environment: str) -> Running:
    """Begins a Python command line, `-m MODULE ARGUMENT ...`."""
    paths = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **environment}
    output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    process = subprocess.Popen(
        [sys.executable, *shlex.split(command)], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
        env=environment, process_group=0,
    )  # fmt: skip
    return Running(process, output)


def finish(name: str, running: Running, read=None, limit: float | None = None) -> Step:
    """Closes a step's standard input, waits for its end, and reads what it printed.

    Args:
        read: makes the result of all that was printed; its ValueError is the step's error. limit: in seconds, or `LIMIT`.
    """
    process, error, result, begin = running.process, None, None, time.perf_counter()
    process.stdin.close()
    try:
        process.wait(limit or LIMIT)
    except subprocess.TimeoutExpired:
        error = "timed out"
        kill(process)
    seconds = time.perf_counter() - begin
    with running.output as file:
        file.seek(0)
        output = file.read()
    if process.returncode and error is None:
        lines = [line.strip() for line in output.splitlines() if re.search(r"\w", line)]  # torchrun ends with a rule
        error = (lines or ["nothing printed"])[-1]
    try:
        result = read(output) if read else None
    except ValueError as unread:
        error = error or str(unread)
    print(f"{name}: {error or 'passed'}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return Step(name, seconds, error, result, output)


def kill(process: subprocess.Popen) -> None:
    """Ends a process and those that it started; torchrun has to be asked, to end its own."""
    for how, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, how)
            process.wait(seconds)


def run_step(name: str, command: str, read=None, limit: float | None = None) -> Step:
    """Runs a Python command line, on one thread since others run beside it, and reads what it prints."""
    return finish(name, start(command, OMP_NUM_THREADS="1"), read, limit)


def keep_logs(steps: list[Step], folder: Path) -> None:
    """Writes what each step printed, into a file named after it."""
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        (folder / f"{re.sub('[^a-z0-9]+', '-', step.name.lower())}.log").write_text(step.output, encoding="utf-8")
