"""An output that takes hours: until it is whole it is `NAME.part`, and `NAME.part.json` says what it is of and how far it is.

A run that was stopped or killed is gone on with from there, if it is of the same input, model and options.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from ..processes import try_lock
from .files import StrPath, replacing
from .table_input import PARQUET, Row
from .table_output import RowWriter, TableOutput

logger = logging.getLogger(__name__)

SECONDS = 5.0
"""How often it is written down how far a run is; so much work is lost with a killed one."""


class Unfinished:
    """The output of a run. A context: an error within leaves what is out to be gone on with.

    Args:
        output: how rows go out.
        path: of the whole output.
        run: what the output is made of, each part by name; another run has something else there.
        resume: go on with an earlier run.

    Attributes:
        rows: how many were written, those of the earlier run too.
        notes: what the run wants to know when it is gone on with; JSON.
    """

    def __init__(self, output: TableOutput, path: StrPath, run: dict[str, Any], resume: bool):
        self._output, self._path, self._run = output, Path(os.path.realpath(path)), run
        self._part = Path(f"{self._path}.part")
        self._journal = Path(f"{self._part}.json")
        self.rows, self.notes = 0, {}  # type: int, dict[str, Any]
        if not self._path.parent.is_dir():
            raise FileNotFoundError(f"{path}: its folder does not exist: make it first")
        before = self._before(resume)
        self._file = open(self._part, "r+b" if before else "ab")
        try:
            self._lock()
            size = before["bytes"] if before else 0
            if os.fstat(self._file.fileno()).st_size < size:
                raise UserError(f"{self._part}: shorter than {self._journal} says: remove both, and begin anew")
            self._file.truncate(size)
            self._file.seek(size)
            if before:
                self.rows, self.notes = before["rows"], before["notes"]
            self._writer: RowWriter = output.writer(self._file, is_begun=self.rows > 0)
        except BaseException:
            self._file.close()
            raise
        self._noted_rows, self._noted_at = self.rows, time.monotonic()

    def _before(self, resume: bool) -> dict[str, Any] | None:
        """What is written down of the run to go on with; None: there is none."""
        try:
            before = json.loads(self._journal.read_text(encoding="utf-8"))
        except FileNotFoundError:
            before = None
        except ValueError:
            raise UserError(
                f"{self._journal}: not what this command writes: remove it and {self._part}, and begin anew"
            ) from None
        if not self._part.exists():  # ended between its last two steps
            before = None
        if not resume:
            if before and before["rows"]:
                raise UserError(
                    f"{self._part}: has {before['rows']:,} rows of a run that has not ended: go on with --resume, or remove it"
                )
            return None
        if before is None:
            if self._path.exists():
                raise UserError(f"{self._path}: is there, and no run of it is to go on with: remove it, or leave --resume out")
            return None
        other = [name for name in sorted({*self._run, *before["run"]}) if self._run.get(name) != before["run"].get(name)]
        if other:
            raise UserError(f"{self._part}: is of another run ({', '.join(map(self._difference(before['run']), other))}): "
                            "give what that run had, or remove it")  # fmt: skip
        return before

    def _difference(self, before: dict[str, Any]) -> Callable[[str], str]:
        def words(name: str) -> str:
            was, now = before.get(name), self._run.get(name)
            is_short = all(len(str(value)) < 40 for value in (was, now))
            return f"{name} {was}, now {now}" if is_short else f"another {name}"

        return words

    def _lock(self) -> None:
        if try_lock(self._file.fileno()) is False:
            raise UserError(f"{self._part}: another process writes it: wait for it, or name another output")

    def write(self, row: Row, generated: Any) -> None:
        self._writer.write(row, generated)
        self.rows += 1
        if time.monotonic() - self._noted_at > SECONDS:
            self.note()

    def note(self) -> None:
        """Makes what is out safe, and writes down how far it is."""
        self._writer.end_part()
        os.fsync(self._file.fileno())
        state = {"rows": self.rows, "bytes": self._file.tell(), "run": self._run, "notes": self.notes}
        with replacing(self._journal) as file:
            file.write(json.dumps(state, indent=1).encode())
        self._noted_rows, self._noted_at = self.rows, time.monotonic()

    def finish(self) -> None:
        """Makes the whole output of it."""
        self.note()
        self._output.finish(self._part, self._path)
        self._journal.unlink()

    def __enter__(self) -> "Unfinished":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        with self._file:
            if error is None:
                return
            with suppress(OSError, UserError):  # what could not be written is not noted either
                self.note()
            if self._noted_rows:
                logger.warning("%d rows are in %s: go on with --resume", self._noted_rows, self._part)
            else:
                self._part.unlink()
                self._journal.unlink(missing_ok=True)


class Piped:
    """An output that is read while it is written: stdout, a named pipe. It has what `Unfinished` has.

    Args:
        file: stays open.
        at_once: write each row out at once, for interactive use.
    """

    def __init__(self, output: TableOutput, file: BinaryIO, at_once: bool = False):
        if output.format == PARQUET:
            raise UserError(f"{output.name}: Parquet cannot be written to a pipe: give --output a file")
        self.rows, self.notes = 0, {}  # type: int, dict[str, Any]
        self._writer, self._at_once = output.writer(file), at_once

    def __enter__(self) -> "Piped":
        return self

    def __exit__(self, *_) -> None:
        with suppress(BrokenPipeError):
            self._writer.end_part()

    def write(self, row: Row, generated: Any) -> None:
        self._writer.write(row, generated)
        self.rows += 1
        if self._at_once:
            self._writer.end_part()

    def finish(self) -> None:
        self._writer.end_part()
