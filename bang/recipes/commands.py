"""Command lines of a recipe, and running them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def execute(command: Command, step: str) -> None:
    words = [sys.executable if word == "python" else str(word) for word in [*command.words, *command.neutral]]
    for path in (command.stdout, command.log):
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    # the programs and the package of this interpreter are found wherever the recipe is called from
    path = _before("PATH", Path(sys.executable).parent)
    environment = {**os.environ, "PATH": path, "PYTHONPATH": _before("PYTHONPATH", _CHECKOUT), **command.environment}
    last = ""
    if command.log is not None:
        with (
            open(command.log, "ab") as log,
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process,
        ):
            try:
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    sys.stderr.write(line.decode("utf-8", "replace"))
                    sys.stderr.flush()
                    last = line.decode("utf-8", "replace").strip() or last
            except BaseException:  # Ctrl-C, a signal: the command must not go on alone
                process.terminate()
                raise
        status = process.returncode
    elif command.stdout is not None:
        unfinished = Path(f"{command.stdout}.unfinished")
        with open(unfinished, "wb") as output:
            status = subprocess.run(words, stdout=output, env=environment).returncode
        if status == 0:
            os.replace(unfinished, command.stdout)
        else:
            last = f"what it printed stands in {unfinished}"
    else:
        status = subprocess.run(words, env=environment).returncode
    if status != 0:
        raise ValueError(f"{step}: {words[0]} ended with status {status}{': ' if last else ''}{last}")


def _before(variable: str, folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
