"""Command lines of a recipe, and running them."""

import contextlib
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..text.files import StrPath

_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Command:
    """A command line, without a shell.

    Attributes:
        words: the program and its arguments; Python's own interpreter stands as "python".
        neutral: further words that do not change what is made, such as a number of processes.
        stdout: file that takes what it prints, whole or not at all; None: the terminal.
        log: file that takes all that it says, beside the terminal, which shows it too; it grows with every run.
        environment: variables that it gets beside those that are there.
    """

    words: Sequence[str]
    neutral: Sequence[str] = ()
    stdout: StrPath | None = None
    log: StrPath | None = None
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
        environment = {**os.environ, "PATH": path, "PYTHONPATH": _before("PYTHONPATH", _CHECKOUT), **command.environment}
        last = ""
        if command.log is not None:
            piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            with open(command.log, "ab") as log, self._started(words, env=environment, **piped) as process:
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    sys.stderr.write(line.decode("utf-8", "replace"))
                    sys.stderr.flush()
                    last = line.decode("utf-8", "replace").strip() or last
        elif command.stdout is not None:
            unfinished = Path(f"{command.stdout}.unfinished")
            with open(unfinished, "wb") as output, self._started(words, env=environment, stdout=output) as process:
                process.wait()
            if process.returncode == 0:
                os.replace(unfinished, command.stdout)
            else:
                last = f"what it printed stands in {unfinished}"
        else:
            with self._started(words, env=environment) as process:
                process.wait()
        if process.returncode != 0:
            raise ValueError(f"{step}: {words[0]} ended with status {process.returncode}{': ' if last else ''}{last}")

    @contextlib.contextmanager
    def _started(self, words: Sequence[str], **options) -> Iterator[subprocess.Popen]:
        with self._lock:  # a command begins before a stop, which then ends it, or not at all
            if self._stopped:
                raise ValueError("stopped")
            process = subprocess.Popen(words, **options)
            self._running.add(process)
        try:
            with process:
                try:
                    yield process
                except BaseException:  # the terminal is gone, for instance: the command must not go on alone
                    process.terminate()
                    raise
        finally:
            with self._lock:
                self._running.discard(process)


def _before(variable: str, folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
