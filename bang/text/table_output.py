"""Writes rows with what was generated from them: plain lines, JSONL, CSV, TSV or Parquet.

Rows are written in *parts* that are complete in themselves: a file that was cut after a part can be continued. Parquet has its
index at the end of the file, so its parts are Arrow streams; `finish` makes one Parquet file of them.
"""

import csv
import io
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from ..packages import import_extra
from .compression import Writer, ending
from .files import StrPath, replacing
from .table_input import JSONL, LINES, PARQUET, PEEK, Dialect, Row, TableInput, first_line, format_of

GENERATED = "generated"
"""Default name of the column of generated texts."""

_BATCH = 1024  # rows of Parquet that are written at once
_ROW_GROUP = 1 << 16  # rows


class TableOutput:
    """The output for the rows of an input.

    Args:
        name: the file's name; its ending says how it is compressed.
        format: one of `FORMATS`; None: by the name's ending.
        column: name of the column of generated texts.
        source: the input.
    """

    def __init__(self, name: StrPath, format: str | None, column: str | None, source: TableInput):
        self.name, self.source = name, source
        self._schema: Any = None  # Parquet's
        self.format = format or format_of(name)
        self.column = column or GENERATED
        if self.format == LINES and column is not None:
            raise UserError(
                f"--output-column {column}: plain lines have no columns: name --output .jsonl, .csv, .tsv or .parquet"
            )
        if self.format == PARQUET and ending(name):
            raise UserError(f"{name}: Parquet is compressed inside: leave out {ending(name)}")
        if self.format == PARQUET:
            import_extra("pyarrow.parquet", "bulk")
        elif ending(name) == ".zst":
            import_extra("pyarrow", "bulk")
        if self.format != LINES and source.format != JSONL:  # rows of JSONL may each have other columns
            self._check_new(source.columns)

    def writer(self, file: BinaryIO, is_begun: bool = False) -> "RowWriter":
        """Returns a writer to an open file.

        Args:
            file: the writer does not close it.
            is_begun: the file has parts already.
        """
        if self.format == PARQUET:
            self._schema = self._find_schema()
            return _ArrowWriter(file, self._schema)
        if self.format == LINES:
            return _TextWriter(file, self.name, lambda row, generated: f"{_as_text(generated)}\n")
        if self.format == JSONL:
            return _TextWriter(file, self.name, self._object)
        lines = _CsvLines([*self.source.columns, self.column], self.format)
        return _TextWriter(file, self.name, lines.line, "" if is_begun else lines.head())

    def finish(self, parts: Path, target: Path) -> None:
        """Turns the file with all parts into the output."""
        if self.format != PARQUET:
            os.replace(parts, target)
            return
        arrow, parquet = import_extra("pyarrow", "bulk"), import_extra("pyarrow.parquet", "bulk")
        schema = self._schema
        with open(parts, "rb") as file, replacing(target) as output, parquet.ParquetWriter(output, schema) as writer:
            batches = _batches(file, arrow)
            while group := list(itertools.islice(batches, _ROW_GROUP // _BATCH)):
                writer.write_table(arrow.Table.from_batches(group, schema), row_group_size=_ROW_GROUP)
        os.remove(parts)

    def _check_new(self, columns: Any) -> None:
        if self.column in columns:
            raise UserError(f"--output-column {self.column}: {self.source.name} has that column already; name another")

    def _object(self, row: Row, generated: Any) -> str:
        columns = row.values()
        _check_columns(row, columns, None, self.column)
        columns = {**columns, self.column: generated}
        line = json.dumps(columns, ensure_ascii=False, default=str)
        return f"{line}\n" if _is_unicode(line) else f"{json.dumps(columns, default=str)}\n"

    def _find_schema(self) -> Any:
        """Parquet's columns and types: those of Parquet input, strings for lines and CSV, inferred from JSONL's first rows."""
        arrow = import_extra("pyarrow", "bulk")
        schema = self.source.schema
        if schema is None and self.source.format == JSONL:
            first, columns = self.source.peek(), self.source.columns
            self._check_new(columns)
            try:
                schema = arrow.Table.from_pydict({name: [row.columns.get(name) for row in first] for name in columns}).schema
            except arrow.ArrowException as error:
                reason = f"its first {PEEK} rows do not fit into columns ({first_line(error)})"
                raise UserError(f"{self.source.name}: {reason}: write JSONL") from None
        elif schema is None:
            schema = arrow.schema([(name, arrow.string()) for name in self.source.columns])
        return schema.append(arrow.field(self.column, arrow.string()))


class RowWriter(ABC):
    """Writes rows in parts."""

    @abstractmethod
    def write(self, row: Row, generated: Any) -> None:
        """Adds a row.

        Args:
            generated: the text, or with --json a dict.
        Raises:
            UserError: the row has columns that the format cannot keep.
        """

    @abstractmethod
    def end_part(self) -> None:
        """Completes a part and flushes it to the operating system."""


class _TextWriter(RowWriter):
    def __init__(self, file: BinaryIO, name: StrPath, line: Callable[[Row, Any], str], head: str = ""):
        self._line, self._writer = line, Writer(file, name)
        self._writer.write(head.encode())

    def write(self, row: Row, generated: Any) -> None:
        self._writer.write(self._line(row, generated).encode(errors="replace"))

    def end_part(self) -> None:
        self._writer.end_part()


class _CsvLines:
    """Lines of CSV or TSV. Values other than strings are written as JSON."""

    def __init__(self, columns: list[str], format: str):
        self._columns, self._known, self._buffer = columns, set(columns[:-1]), io.StringIO()
        self._csv = csv.writer(self._buffer, Dialect(format))

    def head(self) -> str:
        return self._written(self._columns)

    def line(self, row: Row, generated: Any) -> str:
        values = row.values()
        *columns, column = self._columns
        _check_columns(row, values, self._known, column)
        return self._written([*(_as_text(values.get(name, "")) for name in columns), generated])

    def _written(self, fields: list[Any]) -> str:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._csv.writerow(fields)
        return self._buffer.getvalue()


class _ArrowWriter(RowWriter):
    def __init__(self, file: BinaryIO, schema: Any):
        self._arrow = import_extra("pyarrow", "bulk")
        self._file, self._schema = file, schema
        self._rows: list[tuple[Row, str]] = []
        self._stream: Any = None

    def write(self, row: Row, generated: Any) -> None:
        self._rows.append((row, generated))
        if len(self._rows) == _BATCH:
            self._write_rows()

    def end_part(self) -> None:
        if self._rows:
            self._write_rows()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._file.flush()

    def _write_rows(self) -> None:
        if self._stream is None:
            self._stream = self._arrow.ipc.new_stream(self._file, self._schema)
        for _, together in itertools.groupby(self._rows, key=lambda pair: pair[0].place and id(pair[0].place[0])):
            self._stream.write_batch(self._batch(list(together)))
        self._rows.clear()

    def _batch(self, pairs: list[tuple[Row, str]]) -> Any:
        """An Arrow batch of rows: successive ones of one input batch, or rows without a `place`."""
        place = pairs[0][0].place
        if place is not None:
            columns = place[0].slice(place[1], len(pairs)).columns
        else:
            *names, column = self._schema.names
            for row, _ in pairs:
                _check_columns(row, row.columns, set(names), column)
            columns = [self._array(self._schema.field(name), [row for row, _ in pairs]) for name in names]
        generated = self._arrow.array([generated for _, generated in pairs], self._arrow.string())
        return self._arrow.RecordBatch.from_arrays([*columns, generated], schema=self._schema)

    def _array(self, field: Any, rows: list[Row]) -> Any:
        try:
            return self._arrow.array([row.columns.get(field.name) for row in rows], field.type)
        except (self._arrow.ArrowException, OverflowError, TypeError) as error:
            if len(rows) > 1:
                for row in rows:  # find the row that does not fit
                    self._array(field, [row])
            reason = f"its type is {field.type} in the first {PEEK} rows ({first_line(error)})"
            raise UserError(f"{rows[0].where}: column {field.name} does not fit: {reason}: write JSONL") from None


def _batches(file: BinaryIO, arrow: Any) -> Iterator[Any]:
    """Yields the batches of all streams in a file."""
    end = os.fstat(file.fileno()).st_size
    while file.tell() < end:
        yield from arrow.ipc.open_stream(file)


def _check_columns(row: Row, columns: Iterable[str], known: set[str] | None, generated: str) -> None:
    """Refuses a row's columns that the output cannot hold.

    Args:
        known: the columns that it can; None: all.
        generated: name of the column of generated texts.
    """
    if generated in columns:
        raise UserError(f"{row.where}: has a column {generated} already: name another --output-column")
    unknown = next((name for name in columns if name not in known), None) if known is not None else None
    if unknown is not None:
        raise UserError(f"{row.where}: has a column {unknown}, which the first {PEEK} rows lack: write JSONL")


def _as_text(value: Any) -> str:
    """A value of a column in CSV, or what was generated in a plain line."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _is_unicode(text: str) -> bool:
    """Whether the text can be encoded: JSON may contain half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
