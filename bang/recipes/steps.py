"""Steps of a recipe: commands that read files and write files, run again only where what they read has changed.

    plan = Plan(Path("out"))
    plan.add(Step("words", [Command(["sort", "text"], stdout="out/sorted")], inputs=["text"], outputs=["out/sorted"]))
    plan.run()

A step is done when all its commands were, and OUT/steps/NAME.json then holds a fingerprint of the commands and of the
content of their inputs. Whoever stops a recipe and gives its command again goes on with the step that was stopped.
"""

import hashlib
import itertools
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import UserError
from ..processes import hold_folder
from ..text.files import StrPath, write_whole
from .commands import Command, Runner


@dataclass(frozen=True)
class Step:
    """Some commands, what they read, and what they leave.

    Attributes:
        name: unique in its plan, a file name.
        commands: run in turn.
        inputs: files and folders whose content counts.
        outputs: files and folders that exist when the step is done. A step is done anew where one of them is missing,
            or a file in them that was there.
        resumes: file that the commands go on from where an interrupted run left it, as a training run does. One that
            was left from other inputs or with other settings is neither gone on with nor removed, but refused.
        settings: the part of a resumable step's commands that must not change, as text for the message.
        group, at_once: neighbours of the same group need nothing of each other; so many of them run at once.
    """

    name: str
    commands: Sequence[Command]
    inputs: Sequence[StrPath] = field(default=())
    outputs: Sequence[StrPath] = field(default=())
    resumes: StrPath | None = None
    settings: str = ""
    group: str | None = None
    at_once: int = 1


class Plan:
    """Steps in order, whose records stand in `folder`/steps."""

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)
        self.steps: list[Step] = []

    def add(self, step: Step) -> None:
        assert all(step.name != other.name for other in self.steps), step.name
        self.steps.append(step)

    def run(self, dry: bool = False, before: Callable[[], None] = lambda: None) -> None:
        """Runs the steps that are not done, or with `dry` prints their commands and touches nothing.

        Args:
            before: called before the first step that runs.

        Raises:
            ValueError: a command failed, an input is missing, a step would go on from other inputs or settings, an
                output stands where the recipe is given an input, or another process works in the folder.
        """
        self._check_outputs()
        if dry:
            return self._run(dry, before)
        self.folder.mkdir(parents=True, exist_ok=True)
        release = hold_folder(self.folder)
        try:
            self._run(dry, before)
        finally:
            release()

    def _run(self, dry: bool, before: Callable[[], None]) -> None:
        stale: list[set[Path]] = []  # outputs of steps that a dry run leaves undone: who reads of them is undone too
        digests: dict[tuple, str] = {}
        begun = False
        numbered = enumerate(self.steps, start=1)
        for _, group in itertools.groupby(numbered, key=lambda item: item[1].group or item[1].name):
            undone = []
            for number, step in group:
                title = f"[{number}/{len(self.steps)}] {step.name}"
                waits = any(_within(_places(path), places) for path in step.inputs for places in stale)
                inputs = "" if waits else fingerprint(step.inputs, digests)
                if not waits and self._is_done(step, inputs):
                    print(f"{title}: up to date", file=sys.stderr)
                    continue
                if not waits:
                    self._check_begun(step, inputs)
                if dry:
                    stale += map(_places, step.outputs)
                    print("\n".join([f"# {title}", *map(str, step.commands)]))
                else:
                    undone.append((step, inputs, title))
            if undone and not begun:
                begun = True
                before()
            self._run_steps(undone)

    def _check_outputs(self) -> None:
        """Refuses a plan whose steps would remove, or write into, files that none of them makes: a user's own."""
        made: list[tuple[str, StrPath, set[Path]]] = []
        given: dict[StrPath, set[Path]] = {}
        for step in self.steps:
            for path in step.inputs:
                places = _places(path)
                if not any(_within(places, folder) for _, _, folder in made):
                    given[path] = places
            made += [(step.name, path, _places(path)) for path in step.outputs]
        for name, output, places in made:
            for path, others in given.items():
                if _within(others, places) or _within(places, others):
                    raise UserError(
                        f"{output}, which step {name} makes anew, is in the way of the input {path}: give another --out"
                    )

    def _run_steps(self, undone: Sequence[tuple[Step, str, str]]) -> None:
        """Runs the steps of a group at the same time. An error in one lets those that run end, and no other begin."""
        if not undone:
            return
        runner, failed = Runner(), threading.Event()

        def run(step: Step, inputs: str, title: str) -> None:
            if not failed.is_set():
                try:
                    self._run_step(runner, step, inputs, title)
                except BaseException:
                    failed.set()
                    raise

        with ThreadPoolExecutor(max(step.at_once for step, _, _ in undone)) as pool:
            try:
                runs = [pool.submit(run, *item) for item in undone]
                while wait(runs, timeout=1).not_done:  # a signal that comes as it begins to wait does not end the waiting
                    pass
            except BaseException:  # Ctrl-C, a signal: they reach this thread alone
                failed.set()
                runner.stop()
                if any(step.resumes is not None for step, _, _ in undone):
                    print("stopping: the training saves first", file=sys.stderr, flush=True)
                raise
        for done in runs:
            done.result()

    def _record(self, step: Step, kind: str) -> Path:
        return self.folder / "steps" / f"{step.name}.{kind}"

    def _is_done(self, step: Step, inputs: str) -> bool:
        record = self._record(step, "json")
        if not record.exists() or not all(map(os.path.exists, step.outputs)):
            return False
        try:
            done = json.loads(record.read_bytes())
        except ValueError:  # half of one, as older versions left it on a full disk
            return False
        return done["fingerprint"] == _whole(step, inputs) and set(done.get("files", ())) <= set(_made(step))

    def _check_begun(self, step: Step, inputs: str) -> None:
        """Refuses to go on from what a step left of other inputs or settings."""
        begun = self._record(step, "begun")
        if step.resumes is None or not os.path.exists(step.resumes) or not begun.exists():
            return
        theirs, end, settings = begun.read_text(encoding="utf-8").partition("\n")
        if not end:  # half of a record, as older versions left it on a full disk: nothing speaks against going on
            return
        if theirs != inputs:
            made = "from other data or another start"
        elif settings != step.settings:
            made = f"with {settings}, not {step.settings}"
        else:
            return
        raise UserError(f"{step.resumes} was made {made}: give another folder, or remove it to begin anew")

    def _run_step(self, runner: Runner, step: Step, inputs: str, title: str) -> None:
        print(title, file=sys.stderr, flush=True)
        begun, done = self._record(step, "begun"), self._record(step, "json")
        begun.parent.mkdir(parents=True, exist_ok=True)
        write_whole(begun, f"{inputs}\n{step.settings}")  # on a full disk the run ends here, and what is done stays so
        done.unlink(missing_ok=True)
        if step.resumes is None:
            for path in filter(os.path.exists, step.outputs):
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        start = time.time()
        for command in step.commands:
            runner.run(command, step.name)
        for path in step.outputs:
            if not os.path.exists(path):
                anew = f": remove {step.resumes} to begin anew" if step.resumes else ""
                raise UserError(f"{step.name} ended without an error, but did not write {path}{anew}")
        record = {"fingerprint": _whole(step, inputs), "seconds": round(time.time() - start, 1), "files": _made(step)}
        write_whole(done, f"{json.dumps(record)}\n")


def fingerprint(paths: Sequence[StrPath], digests: dict[tuple, str] | None = None) -> str:
    """A hash of the content of files and of all files in folders, and of their names below the folder.

    Args:
        digests: of the files that were read before, which are read again only where they have changed since.
    Raises:
        ValueError: one of them is missing.
    """
    whole, digests = hashlib.sha256(), {} if digests is None else digests
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        for file in _files(path):
            status = file.stat()
            key = (file, status.st_mtime_ns, status.st_size)
            if key not in digests:
                with open(file, "rb") as content:
                    digests[key] = hashlib.file_digest(content, "sha256").hexdigest()
            whole.update(f"{file.relative_to(path)}\0{digests[key]}".encode())
        whole.update(b"\0\0")
    return whole.hexdigest()


def _made(step: Step) -> list[str]:
    """The files of a step's outputs."""
    return [str(file) for path in map(Path, step.outputs) for file in _files(path)]


def _places(path: StrPath) -> set[Path]:
    """Where a path leads by its name, and with links followed."""
    return {Path(os.path.abspath(path)), Path(os.path.realpath(path))}


def _within(places: set[Path], folders: set[Path]) -> bool:
    """Whether one of the places is one of the folders, or below it."""
    return any(place.is_relative_to(folder) for place in places for folder in folders)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from sorted(file for file in path.rglob("*") if file.is_file())


def _whole(step: Step, inputs: str) -> str:
    """What a step is done by: the content of its inputs and its commands, less what changes nothing of what is made."""
    commands = (str(replace(command, neutral=(), environment={})) for command in step.commands)
    return hashlib.sha256("\n".join([inputs, *commands]).encode()).hexdigest()
