"""Reads rows of a file or pipe, one at a time: plain lines, JSONL, CSV, TSV or Parquet. One column is the text.

A row that cannot be read has an `error` and keeps its place, so that outputs match inputs row by row.
"""

import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, NamedTuple

from ..errors import UserError
from ..packages import import_extra
from . import compression
from .files import CompressedError, StrPath, decode_line, standard_input, whole_lines

LINES, JSONL, CSV, TSV, PARQUET = "lines", "jsonl", "csv", "tsv", "parquet"
FORMATS = (LINES, JSONL, CSV, TSV, PARQUET)
TEXT = "text"
"""Default name of the text column, and that of plain lines."""

PEEK = 1000
"""Rows of JSONL that are read to find its columns."""

_ENDINGS = {".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".tsv": TSV, ".parquet": PARQUET}
_FIELD = 1 << 24
"""Most characters of a CSV field: after an unclosed quote the rest of the file would be one field."""
_BATCH = 1024  # rows of Parquet that are read at once


def format_of(name: StrPath) -> str:
    """The format that a name ends in, before the ending of a compression; plain lines for any other ending."""
    stem = os.fspath(name)
    if compression.ending(stem):
        stem = os.path.splitext(stem)[0]
    return _ENDINGS.get(os.path.splitext(stem)[1].lower(), LINES)


class Row(NamedTuple):
    """A row.

    Attributes:
        text: what to generate from.
        columns: all columns by name, the text's too; empty where they cannot be read.
        where: its file and line, or row.
        error: why the row cannot be read, in one line; None: it can.
        place: for Parquet, the row's batch and its index there, instead of `columns`.
    """

    text: str
    columns: dict[str, Any]
    where: str = ""
    error: str | None = None
    place: tuple[Any, int] | None = None

    def values(self) -> dict[str, Any]:
        """All columns by name, as Python values."""
        if self.place is None:
            return self.columns
        batch, index = self.place
        return batch.slice(index, 1).to_pylist()[0]


class Dialect(csv.excel):
    """CSV or TSV as spreadsheets write it; strict: damaged rows are errors."""

    strict = True
    lineterminator = "\n"

    def __init__(self, format: str):
        self.delimiter = "\t" if format == TSV else ","
        super().__init__()


class TableInput:
    """The rows of a file or of stdin. A context: it closes the file.

    Args:
        path: "-" is stdin.
        format: one of `FORMATS`; None: by the name's ending.
        column: name of the text column.
    """

    def __init__(self, path: StrPath, format: str | None = None, column: str | None = None):
        self.path, self.name = path, "stdin" if path == "-" else os.fspath(path)
        self.format = format or format_of(path)
        if self.format == LINES and column is not None:
            raise UserError(f"--input-column {column}: {self.name} is plain lines, which have no columns; {_ANOTHER_FORMAT}")
        self.column = column or TEXT
        self.schema: Any = None  # Parquet's
        self._columns: list[str] | None = [self.column] if self.format == LINES else None
        self._opened = ExitStack()
        if os.path.isdir(path):
            raise UserError(f"{path}: is a folder; give a file, or give them one by one")
        try:
            self._rows = self._open()
        except BaseException:
            self._opened.close()
            raise

    def __enter__(self) -> "TableInput":
        return self

    def __exit__(self, *_) -> None:
        self._opened.close()

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    @property
    def columns(self) -> list[str]:
        """Names of all columns; for JSONL those of the first rows."""
        if self._columns is None:
            self.peek()
            assert self._columns is not None
        return self._columns

    def peek(self) -> list[Row]:
        """Returns the first rows; iterating yields them again."""
        first = list(itertools.islice(self._rows, PEEK))
        self._rows = itertools.chain(first, self._rows)
        if self._columns is None:
            self._columns = list(dict.fromkeys(name for row in first for name in row.columns))
        return first

    def count(self) -> int | None:
        """Counts the rows, which is much faster than generating; None for a pipe."""
        if not os.path.isfile(self.path):
            return None
        if self.format == PARQUET:
            return import_extra("pyarrow.parquet", "bulk").read_metadata(self.path).num_rows
        with open(self.path, "rb") as file, compression.reading(file, self.name) as read:
            data = whole_lines(read, self.name)
            if self.format in (CSV, TSV):
                fields = csv.reader((line.decode(errors="replace") for line in data), Dialect(self.format))
                return max(sum(1 for row in fields if row) - 1, 0)
            return sum(1 for _ in data)

    def _open(self) -> Iterator[Row]:
        file = standard_input() if self.path == "-" else self._opened.enter_context(open(self.path, "rb"))
        if self.format == PARQUET:
            if not os.path.isfile(self.path):
                raise UserError(f"{self.name}: Parquet cannot be read from a pipe: give --input a file")
            return self._parquet(file)
        lines = whole_lines(self._opened.enter_context(compression.reading(file, self.name)), self.name)
        if self.format == LINES:
            return self._lines(lines)
        return self._jsonl(lines) if self.format == JSONL else self._csv(lines)

    def _lines(self, lines: Iterable[bytes]) -> Iterator[Row]:
        for number, line in enumerate(lines, start=1):
            try:
                text = decode_line(line.removesuffix(b"\n"), self.name, number)
            except CompressedError:
                raise
            except UserError as error:
                yield _unreadable(str(error))
            else:
                yield Row(text, {self.column: text})

    def _jsonl(self, lines: Iterable[bytes]) -> Iterator[Row]:
        for number, line in enumerate(lines, start=1):
            where = f"{self.name}, line {number}"
            try:
                columns = json.loads(decode_line(line.removesuffix(b"\n"), self.name, number, is_json=True))
            except CompressedError:
                raise
            except json.JSONDecodeError as error:
                yield _unreadable(f"{where}: not JSON ({error.msg} at character {error.pos + 1})")
                continue
            except UserError as error:
                yield _unreadable(str(error))
                continue
            except (ValueError, RecursionError) as error:  # numbers with thousands of digits, deep nesting
                yield _unreadable(f"{where}: not JSON that can be read ({error})")
                continue
            if not isinstance(columns, dict):
                yield _unreadable(f"{where}: JSON, but no object of columns: give one {{...}} a line")
            elif self.column not in columns:
                yield _unreadable(
                    f"{where}: no column {self.column}; it has {_list(columns)}: name one with --input-column", columns
                )
            else:
                yield self._row(columns, where)

    def _row(self, columns: dict[str, Any], where: str) -> Row:
        text = columns[self.column]
        if isinstance(text, str):
            return Row(text, columns, where)
        return _unreadable(f"{where}: column {self.column} is {json.dumps(text)[:40]}, no text", columns)

    def _csv(self, lines: Iterable[bytes]) -> Iterator[Row]:
        csv.field_size_limit(_FIELD)
        # the parser passes bytes that are not UTF-8; their row gets an error
        decoded = (line.decode("utf-8", "surrogateescape") for line in lines)
        reader = csv.reader(decoded, Dialect(self.format))
        header = next(self._parsed(reader), [])
        if header:
            header[0] = header[0].removeprefix("\ufeff")  # the byte order mark that Excel writes
        if not header or any(_is_broken(name) for name in header):
            raise UserError(f"{self.name}: its first line names no columns: give a header")
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{self.name}: has two columns {twice!r}: rename one")
        self._columns = header
        self._check_column()
        return self._csv_rows(reader, header)

    def _csv_rows(self, reader: Any, header: list[str]) -> Iterator[Row]:
        for fields in self._parsed(reader):
            if not fields:  # a blank line, such as one after the last row
                continue
            where = f"{self.name}, line {reader.line_num}"
            if len(fields) != len(header):
                yield _unreadable(f"{where}: {len(fields)} fields, and the header has {len(header)}")
            elif any(map(_is_broken, fields)):
                yield _unreadable(f"{where}: not UTF-8: convert the file to UTF-8, with iconv for instance")
            else:
                columns = dict(zip(header, fields))
                yield Row(columns[self.column], columns, where)

    def _parsed(self, reader: Any) -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            kind = self.format.upper()
            raise UserError(
                f"{self.name}, line {reader.line_num}: not {kind} ({error}): is a quote unclosed before it?"
            ) from None

    def _parquet(self, opened: BinaryIO) -> Iterator[Row]:
        arrow = import_extra("pyarrow", "bulk")
        parquet = import_extra("pyarrow.parquet", "bulk")
        try:
            file = self._opened.enter_context(parquet.ParquetFile(opened))
        except (arrow.ArrowException, OSError) as error:
            raise UserError(
                f"{self.path}: no whole Parquet file ({first_line(error)}): make it again, or copy it whole"
            ) from None
        self.schema = file.schema_arrow
        self._columns = self.schema.names
        self._check_column()
        kind = self.schema.field(self.column).type
        kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
        if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_string_view(kind)):
            raise UserError(f"{self.path}: column {self.column} is of type {kind}, no text")
        return self._parquet_rows(file, arrow)

    def _parquet_rows(self, file: Any, arrow: Any) -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(_BATCH):
                for index, text in enumerate(batch.column(self.column).to_pylist()):
                    number += 1
                    where = f"{self.path}, row {number}"
                    error = f"{where}: column {self.column} is null, no text" if text is None else None
                    yield Row(text or "", {}, where, error, (batch, index))
        except (arrow.ArrowException, OSError) as error:
            raise UserError(f"{self.path}: damaged behind row {number} ({first_line(error)}): make it again") from None

    def _check_column(self) -> None:
        assert self._columns is not None
        if self.column not in self._columns:
            raise UserError(f"{self.name}: no column {self.column}; it has {_list(self._columns)}: name one with --input-column")


_ANOTHER_FORMAT = f"--input-format is one of {', '.join(FORMATS)}"


def _unreadable(error: str, columns: dict[str, Any] | None = None) -> Row:
    return Row("", columns or {}, error=error)


def _is_broken(text: str) -> bool:
    """Whether it has bytes that were not UTF-8."""
    return any("\udc80" <= char <= "\udcff" for char in text) if not text.isascii() else False


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
