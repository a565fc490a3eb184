"""Command lines of a recipe, and running them."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from ..processes import started
from ..text.files import StrPath

TAIL, TAIL_BYTES = 40, 10_000
"""How much of a failed program's last words its error is looked for in, lines and bytes."""

_ERROR = re.compile(r"error\b", flags=re.I)
_HOME = Path(__file__).resolve().parents[2]
"""The folder that the package is imported from: a checkout, or site-packages."""


@dataclass(frozen=True)
class Command:
    """A command line, without a shell.

    Attributes:
        words: the program and its arguments, as str() gives them; Python's own interpreter stands as "python".
        neutral: further words that do not change what is made, such as a number of processes; they come last.
        stdout: file that takes what it prints, whole or not at all; None: the terminal.
        log: file that takes all that it says, beside the terminal, which shows it too; it grows with every run.
        shown: what the terminal shows of a line that goes to `log`, None: not the line; by default all.
        environment: variables that it gets beside those that are there; they do not change what is made either.
    """

    words: Sequence[object]
    neutral: Sequence[object] = ()
    stdout: StrPath | None = None
    log: StrPath | None = None
    shown: Callable[[str], str | None] = str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [*(f"{name}={value}" for name, value in self.environment.items()), *self.words, *self.neutral]
        shown = shlex.join(map(str, words))
        if self.log is not None:
            shown += f" 2>&1 | tee -a {shlex.quote(str(self.log))}"
        return shown if self.stdout is None else f"{shown} > {shlex.quote(str(self.stdout))}"


class Runner:
    """Runs commands, in several threads at once, until it is stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def stop(self) -> None:
        """Asks the commands that run to end, and lets none begin any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def run(self, command: Command, step: str) -> None:
        """Runs a command of a step to its end.

        Raises:
            ValueError: it failed, or was stopped.
        """
        words = [sys.executable if word == "python" else str(word) for word in [*command.words, *command.neutral]]
        for path in (command.stdout, command.log):
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
        # the programs and the package of this interpreter are found wherever the recipe is called from
        path = _before("PATH", Path(sys.executable).parent)
        environment = {**os.environ, "PATH": path, "PYTHONPATH": _before("PYTHONPATH", _HOME), **command.environment}
        unfinished = None if command.stdout is None else Path(f"{command.stdout}.unfinished")
        with contextlib.ExitStack() as stack:
            # keeps the output, so that the error line can be repeated at the end
            said: dict[str, Any] = {"stderr": subprocess.PIPE}
            log = None if command.log is None else stack.enter_context(open(command.log, "ab"))
            if log is not None:
                said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            elif unfinished is not None:
                said["stdout"] = stack.enter_context(open(unfinished, "wb"))
            process = stack.enter_context(self._started(words, env=environment, **said))
            last = _show(process, log, command.shown)
        if process.returncode != 0:
            where = f"what it printed stands in {unfinished}" if unfinished else f"its log: {command.log}" if command.log else ""
            reason = "; ".join(filter(None, [last, where]))
            raise UserError(f"{step}: {words[0]} ended with status {process.returncode}{': ' if reason else ''}{reason}")
        if unfinished is not None:
            unfinished.replace(unfinished.with_suffix(""))

    @contextlib.contextmanager
    def _started(self, words: Sequence[str], **options) -> Iterator[subprocess.Popen]:
        with self._lock:  # a command begins before a stop, which then ends it, or not at all
            if self._stopped:
                raise UserError("stopped")
            stack = contextlib.ExitStack()
            process = stack.enter_context(started(words, **options))
            self._running.add(process)
        try:
            with stack:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)


def error_line(said: str) -> str:
    """The line that says why a program failed: the last that mentions an error, else the last line."""
    last = error = ""
    for line in filter(None, map(str.strip, re.split(r"[\r\n]", said)[-TAIL:])):
        last, error = line, line if _ERROR.search(line) else error
    return error or last


def _show(process: subprocess.Popen, log: BinaryIO | None, shown: Callable[[str], str | None]) -> str:
    """Passes on what a process says until it ends: to the terminal, by lines to the log; returns the line of its error."""
    tail = b""
    said: Any = process.stderr if log is None else process.stdout
    if log is None:  # at once: progress bars do not end their lines
        for part in iter(said.read1, b""):
            tail = (tail + part)[-TAIL_BYTES:]
            sys.stderr.write(part.decode("utf-8", "replace"))
            sys.stderr.flush()
    else:
        for line in said:
            tail = (tail + line)[-TAIL_BYTES:]
            log.write(line)
            log.flush()
            text = shown(line.decode("utf-8", "replace").removesuffix("\n"))
            if text is not None:
                print(text, file=sys.stderr, flush=True)
    return error_line(tail.decode("utf-8", "replace"))


def _before(variable: str, folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
