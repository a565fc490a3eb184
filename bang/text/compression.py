"""Files compressed by gzip or Zstandard, recognized by the end of their name."""

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..errors import UserError
from ..packages import import_extra
from .files import StrPath

ENDINGS = {".gz": "gzip", ".zst": "zstd"}
_BUFFER = 1 << 20


def ending(name: StrPath) -> str:
    """The one of `ENDINGS` that a name has; empty: none."""
    last = os.path.splitext(os.fspath(name))[1].lower()
    return last if last in ENDINGS else ""


@contextlib.contextmanager
def reading(file: Any, name: StrPath) -> Iterator[BinaryIO]:
    """The bytes that a file named so holds, decompressed where its name says that they are compressed.

    Args:
        file: buffered, binary.
    Raises:
        UserError: here or in reading, it is damaged or ends in the middle.
    """
    kind = ENDINGS.get(ending(name))
    if kind is None:
        yield file
        return
    if not file.peek(1):
        raise _damaged(name, kind, "it is empty")
    if kind == "gzip":
        stream: Any = gzip.GzipFile(fileobj=file)
    else:
        stream = import_extra("pyarrow", "bulk").CompressedInputStream(file, kind)
    with io.BufferedReader(_Whole(name, kind, stream), _BUFFER) as whole:
        yield whole


def _damaged(name: StrPath, kind: str, reason: str) -> UserError:
    return UserError(f"{name}: damaged, or not written to its end ({kind}: {reason}): make it again, or copy it whole")


class _Whole(io.RawIOBase):
    """A decompressed stream whose errors name the file; those of who reads it are not touched."""

    def __init__(self, name: StrPath, kind: str, stream: Any):
        super().__init__()
        self._name, self._kind, self._stream = name, kind, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (EOFError, OSError, zlib.error) as error:
            raise _damaged(self._name, self._kind, str(error).rstrip(".")) from None
        buffer[: len(data)] = data
        return len(data)


class Writer:
    """Writes to a file that is open already, compressed as a name says, in parts that can each be read alone.

    A file that is cut behind such a part is whole: gzip and Zstandard allow several in a row.

    Args:
        file: stays open.
        name: whose ending says how to compress.
    """

    def __init__(self, file: BinaryIO, name: StrPath):
        self._file, self._kind = file, ENDINGS.get(ending(name))
        self._stream: Any = None

    def write(self, data: bytes) -> None:
        if self._stream is None:
            self._stream = self._open()
        self._stream.write(data)

    def _open(self) -> Any:
        if self._kind is None:
            return self._file
        if self._kind == "gzip":
            return gzip.GzipFile(fileobj=self._file, mode="wb", filename="", mtime=0)
        return import_extra("pyarrow", "bulk").CompressedOutputStream(_StaysOpen(self._file), self._kind)

    def end_part(self) -> None:
        """Ends the part that was begun, if one was, and hands all to the system."""
        if self._stream not in (None, self._file):
            self._stream.close()
        self._stream = None
        self._file.flush()


class _StaysOpen(io.RawIOBase):
    """A file to write to that whoever uses it cannot close: pyarrow does."""

    def __init__(self, file: BinaryIO):
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)
