"""Text files: a line ends at a line feed and nowhere else; an output is whole or absent.

Standard library only: whatever reads or writes a file uses it.
"""

import contextlib
import glob
import itertools
import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError
from ..processes import is_at, try_lock

StrPath = str | os.PathLike[str]
STANDARD_INPUTS = ("stdin", "-")
LONGEST_LINE = 1 << 26
"""Bytes of a line: /dev/zero, or a few bytes that are decompressed, would take all memory for one."""

logger = logging.getLogger(__name__)

_COMPRESSED = {
    "gzip": (rb"\x1f\x8b", "gzip -dc"),
    "Zstandard": (rb"\x28\xb5\x2f\xfd", "zstd -dc"),
    "xz": (rb"\xfd7zXZ\x00", "xz -dc"),
    "bzip2": (b"BZh[1-9]1AY&SY", "bzip2 -dc"),
    "zip": (rb"PK(\x03\x04|\x05\x06)", "unzip -p"),
}
"""How compressed files begin, and what gives their text."""
_NO_ROOM = re.compile(r"no space left|file too large|quota exceeded|unexpected pos|failed writing", flags=re.I)
"""How libraries in Rust and C++ (safetensors, torch) report what Python reports as an OSError."""
_hinted: set[str] = set()  # names of what was said to look like JSON


def decode_line(line: bytes, name: StrPath, number: int, is_json: bool = False) -> str:
    """Decodes one line of the file `name`, whose 1-based line `number` it is.

    Logs a hint, once a file, where the first line looks like JSON, and no JSON is wanted.

    Raises:
        CompressedError: the file is compressed.
        ValueError: the line is not UTF-8.
    """
    if number == 1:
        _check_first(line, str(name), is_json)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at byte {error.start + 1} "
            "of the line): convert the file to UTF-8, with iconv for instance"
        ) from None


class CompressedError(UserError):
    """A file holds no text but a compressed one; no line of it can be read."""


def _check_first(line: bytes, name: str, is_json: bool) -> None:
    for kind, (begins, command) in _COMPRESSED.items():
        if re.match(begins, line, re.DOTALL):
            text, ending = os.path.splitext(name)
            output = text if ending else f"{name}.txt"
            remedy = f"{command} FILE | bang ..." if name in STANDARD_INPUTS else f"{command} {name} > {output}"
            raise CompressedError(f"{name}: compressed ({kind}), not text: decompress it first: {remedy}")
    if line.startswith(b'{"') and not is_json and name not in _hinted:
        _hinted.add(name)
        logger.warning(
            '%s, line 1: begins with {": JSON is taken for text, braces and all; take the texts out of it first: '
            "jq -r .KEY FILE, where KEY names the text", name,
        )  # fmt: skip


def standard_input() -> BinaryIO:
    """stdin, in bytes.

    Raises:
        ValueError: it is closed, as by `<&-`.
    """
    if sys.stdin is None:
        raise UserError("stdin is closed, and texts are read from there: give them with < FILE")
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """stdout, for bytes.

    Raises:
        ValueError: it is closed, as by `>&-`.
    """
    if sys.stdout is None:
        raise UserError("stdout is closed, and texts are written there: give it a file with > FILE")
    return sys.stdout.buffer


def whole_line(file: BinaryIO, name: StrPath, number: int) -> bytes:
    """The next line of a file, or the rest of one, with its line feed; empty at the end.

    Raises:
        ValueError: it is far longer than any text, as where a line never ends.
    """
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise UserError(f"{name}, line {number}: longer than {LONGEST_LINE >> 20} MB: give a file with one text a line")
    return line


def whole_lines(file: BinaryIO, name: StrPath) -> Iterator[bytes]:
    """The lines of a file, as `whole_line` gives them."""
    for number in itertools.count(1):
        line = whole_line(file, name, number)
        if not line:
            return
        yield line


def read_lines(path: StrPath) -> Iterator[str]:
    """Yields the lines of a UTF-8 file without their line feeds.

    Unlike Python's text files it does not split a line at a carriage return.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(whole_lines(file, path), start=1):
            yield decode_line(line.removesuffix(b"\n"), path, number)


def refuse_overwriting(output: StrPath, inputs: Iterable[StrPath]) -> None:
    """Checks that writing `output` would not destroy one of `inputs`.

    Raises:
        ValueError: `output` is one of `inputs`, maybe under another name.
    """
    for path in inputs:
        if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise UserError(f"output {output} is the input {path}: choose another output")


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """Opens a new file that takes the place of `path` once it is written without an error.

    Until then, and for good if an error or Ctrl-C comes first, `path` stays as it was.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.exists() and not target.is_file():  # /dev/null, a pipe: nothing to replace
        with open(target, "wb") as file:
            yield file
        return
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist: make it first")
    with unfinished(target, partial(Path.touch, exist_ok=False)) as temporary:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, target)


@contextlib.contextmanager
def new_folder(path: StrPath) -> Iterator[Path]:
    """Makes a folder that appears under its name once it is filled without an error, and else not at all.

    Yields:
        Where to write its files.

    Raises:
        ValueError: something is there already, and it is not an empty folder.
        FileNotFoundError: the folder that it goes into does not exist.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{path}: is there already; choose another name, or remove it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder that it goes into does not exist: make it first")
    with unfinished(target, Path.mkdir) as temporary:
        yield temporary
        os.rename(temporary, target)  # takes the place of an empty folder


def write_whole(path: StrPath, text: str) -> None:
    """Writes a text file, whole or not at all: see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def unfinished(target: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """A file or folder beside `target`, under a name of its own; what killed processes left there is removed.

    It is locked while this process lives. So a leftover differs from what another process is writing now, also where
    process numbers come again, as in containers.
    """
    for stray in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with _locked(stray) as locked:
            if locked:
                _remove(stray)
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        try:
            make(temporary)
            with _locked(temporary) as locked:
                if locked is not False:  # else another process took it for a leftover before it was locked
                    yield temporary
                    return
        except Exception as error:
            if not isinstance(error, (OSError, ValueError)) and _NO_ROOM.search(str(error)):
                raise OSError(f"{target}: cannot be written, the disk may be full ({str(error).splitlines()[0]})") from None
            raise
        finally:
            _remove(temporary)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool | None]:
    """Whether a file or folder could be locked; None where that is unknown."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    except OSError:  # a folder, on Windows
        yield None
        return
    try:
        locked = try_lock(descriptor)
        yield is_at(descriptor, path) if locked else locked
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Removes a file or a folder that may be gone already."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
