"""What a checkpoint file may hold: weights, numbers, text, and containers of them.

A file is checked before anything is built from it: its parts must have the lengths that they state, and its pickles must be
harmless (`pickles`). torch's weights-only loader then restores what its allow-list names. Our list applies only while a
checkpoint is read. Loading some foreign names would trust the file (numpy's arrays, omegaconf's containers): the list maps them
to classes of ours that take plain values only.

Time and memory are bounded by the length of the file.
"""

import argparse
import contextlib
import hashlib
import io
import os
import pickle
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from fairseq.logging import meters

from ..errors import UserError
from .pickles import MOST_BYTES, MOST_PARTS, Refused, Walk

_METERS = ("AverageMeter", "SumMeter", "TimeMeter", "StopwatchMeter")
_NUMBER = re.compile(r"(b1|[iufc]\d{1,2})")  # numpy's codes of booleans, integers and floats


class _NumberType:
    """Stands in for numpy.dtype: `('f8', False, True)`, then its state, of which only the byte order is used."""

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise pickle.UnpicklingError(f"numpy type {code!r:.40}")
        self.type = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.type = self.type.newbyteorder(state[1])


class _Array:
    """Stands in for a numpy array; `__setstate__` makes one from bytes, whose number numpy checks against the shape."""

    def __init__(self, *ignored: Any):  # as numpy's _reconstruct: the class, an empty shape, a type code
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_column, data = state
        flat = np.frombuffer(data, dtype=kind.type)
        self.value = flat.reshape(shape, order="F" if by_column else "C").copy()


def _scalar(kind: _NumberType, data: bytes) -> np.generic:
    """Stands in for numpy's scalar: one number from its bytes."""
    (number,) = np.frombuffer(data, dtype=kind.type)
    return number


class _Config:
    """Stands in for omegaconf's containers, leaves and notes about types: keeps the values, drops the rest."""

    def __init__(self, *ignored: Any):
        self.value = None

    def __setstate__(self, state: dict) -> None:
        self.value = state.get("_content", state.get("_val"))


class DamagedError(UserError):
    """A checkpoint that cannot be read: truncated, damaged, or not a checkpoint."""


def _allowed() -> list[tuple[Callable, str]]:
    """What a file may name besides torch's own tensors and containers, each with the name that files use."""
    # fairseq 0.9 pickled its options and, in `extra_state`, its meters, which were one module higher then
    allowed: list[tuple[Callable, str]] = [(argparse.Namespace, "argparse.Namespace")]
    for module in ("fairseq.meters", "fairseq.logging.meters"):
        allowed += [(getattr(meters, name), f"{module}.{name}") for name in _METERS]
    # average losses are numpy scalars, BLEU's average counts arrays; numpy 2 moved the functions
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(_Array, f"{module}._reconstruct"), (_scalar, f"{module}.scalar")]
    allowed += [(_Array, "numpy.ndarray"), (_NumberType, "numpy.dtype")]
    # fairseq 0.10 to 0.12 sometimes pickled its options as omegaconf's containers
    for name in (
        "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
        "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "collections.defaultdict",
        "typing.Any", "builtins.dict", "builtins.list", "builtins.int", "builtins.str",
    ):  # fmt: skip
        allowed.append((_Config, name))
    return allowed


_READING = threading.Lock()  # torch has one list for all threads


@contextlib.contextmanager
def only_plain_data(*more: type) -> Iterator[None]:
    """A context in which torch.load reads what fairseq's checkpoints hold, and `more`; pass its result to `plain`."""
    with _READING, torch.serialization.safe_globals([*_allowed(), *more]):
        yield


def plain(value: Any) -> Any:
    """The value with stand-ins replaced by plain values, in place where a container allows it.

    Raises:
        Refused: it holds itself, or more values than any checkpoint: a walk through it would never end.
    """
    parts: dict[int, tuple[Any, Any, int]] = {}  # by id: the original, kept alive; its replacement; its number of values

    def convert(value: Any) -> tuple[Any, int]:
        if isinstance(value, (_Array, _Config)):
            return once(value, lambda: convert(value.value))
        if isinstance(value, (argparse.Namespace, *_METER_CLASSES)):
            return once(value, lambda: (value, convert(vars(value))[1]))
        if isinstance(value, dict):
            return once(value, lambda: (value, of_dict(value)))
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):  # workers exchange sizes
            return once(value, lambda: of_list(value))
        return value, 1

    def once(value: Any, found: Callable[[], tuple[Any, int]]) -> tuple[Any, int]:
        if id(value) not in parts:
            parts[id(value)] = value, value, MOST_PARTS + 1  # in progress: found again now, it holds itself
            parts[id(value)] = (value, *found())
        _, result, count = parts[id(value)]
        if count > MOST_PARTS:
            raise Refused("it holds itself, or more values than any checkpoint")
        return result, count

    def of_dict(value: dict) -> int:
        if type(value) is OrderedDict:
            vars(value).clear()  # torch's attributes, which could also hide methods
        count = 1
        for key in value:
            value[key], more = convert(value[key])
            count += more
        return count

    def of_list(value: list | tuple) -> tuple[Any, int]:
        found = [convert(part) for part in value]
        items, count = [part for part, _ in found], 1 + sum(more for _, more in found)
        if isinstance(value, tuple):
            return tuple(items), count
        value[:] = items
        return value, count

    return convert(value)[0]


_METER_CLASSES = tuple(getattr(meters, name) for name in _METERS)


def read(path: str, mmap: bool = False, checksums: bool | None = None) -> dict:
    """Reads a checkpoint file onto the CPU, as plain data only.

    Args:
        path: the file.
        mmap: leave weights on disk until they are used; the file must not change meanwhile.
        checksums: read the whole file and compare its checksums; None: unless `mmap`.
    Raises:
        ValueError: it is missing, truncated, not a checkpoint, damaged, or holds more than data. One line.
    """
    if os.path.isdir(path):
        raise UserError(f"checkpoint {path}: is a folder; of one of bang pack, make a checkpoint with bang unpack {path} FILE")
    if not os.path.isfile(path):
        raise UserError(f"checkpoint {path}: no such file")
    try:
        is_zip = _look_through(path, not mmap if checksums is None else checksums)
        with only_plain_data():
            # files of torch < 1.6 cannot be mapped
            state = plain(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip))
        _check_views(state, os.path.getsize(path))
    except UserError as error:
        raise type(error)(f"checkpoint {path}: {error}") from None
    except Exception as error:  # each library has its own; torch's advice would be unsafe
        refusal = _refusal(error)
        if refusal:
            raise UserError(f"checkpoint {path}: {refusal}") from None
        changed = isinstance(error, zipfile.BadZipFile) and "CRC" in str(error)
        raise DamagedError(f"checkpoint {path}: {_CHANGED if changed else _DAMAGED}") from None
    if not isinstance(state, dict):
        raise UserError(f"checkpoint {path}: holds a {type(state).__name__}, not a fairseq checkpoint")
    return state


CHECKSUM = ".sha256"
"""Ending of the file beside a checkpoint that holds its checksum, as sha256sum writes it."""
_MAGIC = 0x1950A86A20F9469CFC6C  # what torch < 1.6 begins a file with
_DAMAGED = "cannot be read; truncated, or no fairseq checkpoint"
_CHANGED = "damaged: its checksum does not match; copy it again from where it comes"


def _look_through(path: str, checksums: bool) -> bool:
    """Checks the parts of a file and its pickles. Returns whether it is a zip file, as torch >= 1.6 writes.

    Raises:
        Refused, UserError: it holds something forbidden, or is damaged. Any other: it is not a checkpoint.
    """
    if checksums and os.path.isfile(path + CHECKSUM):
        wanted = Path(path + CHECKSUM).read_text(encoding="utf-8", errors="replace")[:64]
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                raise DamagedError(f"{_CHANGED} ({path}{CHECKSUM})")
        checksums = False
    names = {name for _, name in _allowed()}
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\3\4"
        (_look_through_zip if is_zip else _look_through_old)(file, names, os.path.getsize(path), checksums)
    return is_zip


def _look_through_zip(file: BinaryIO, names: set[str], size: int, checksums: bool) -> None:
    """Checks a zip file of torch.save: uncompressed parts, one of them a pickle, the others one block of numbers each."""
    if _directory_bytes(file, size) > MOST_BYTES:
        raise Refused("it has more parts than a checkpoint")
    with zipfile.ZipFile(file) as archive:
        parts = {part.filename: part for part in archive.infolist()}
        top = next(iter(parts)).partition("/")[0]
        is_stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts.values())
        if not is_stored or len(parts) < len(archive.infolist()) or sum(part.file_size for part in parts.values()) > size:
            raise Refused("its parts are compressed, or longer than the file: not as torch.save writes them")
        pickled = parts[f"{top}/data.pkl"]
        if pickled.file_size > MOST_BYTES:
            raise Refused("what describes its weights is far too long")
        walk = Walk(names)
        walk.run(io.BytesIO(archive.read(pickled)))
        for key, length in walk.storages.items():
            if parts[f"{top}/data/{key}"].file_size != length:
                raise Refused("it gives a block of numbers another size than it has")
        for part in archive.infolist() if checksums else ():
            with archive.open(part) as data:
                while data.read(1 << 20):  # zipfile compares the checksum at the end
                    pass


def _directory_bytes(file: BinaryIO, size: int) -> int:
    """The stated length of a zip file's list of parts; zipfile would read it into ten times as much memory."""
    file.seek(max(0, size - 98))
    tail = file.read()
    if tail[-22:-18] != b"PK\5\6":  # torch's files end without a comment
        raise zipfile.BadZipFile
    if tail[-42:-38] == b"PK\6\7":  # a long file (zip64): its locator comes before
        return int.from_bytes(tail[40:48], "little")
    return int.from_bytes(tail[-10:-6], "little")


def _look_through_old(file: BinaryIO, names: set[str], size: int, checksums: bool) -> None:
    """Checks a file of torch < 1.6: five pickles (a number, a version, notes, the state, keys), then the blocks of numbers."""
    file.seek(0)
    start = io.BytesIO(file.read(MOST_BYTES))
    if Walk().run(start) != _MAGIC:
        raise ValueError("no checkpoint")
    walk = Walk(names)
    for _ in range(4):
        walk.run(start)
    if start.tell() + sum(walk.storages.values()) > size:
        raise EOFError


def _check_views(state: Any, size: int) -> None:
    """Refuses weights with more numbers than their block: with strides of 0 one number looks like billions, until it is copied.

    Raises:
        Refused: there are such weights.
    """
    left, total, seen = [state], 0, set()
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor):
            own = value.numel() * value.element_size()
            total += own
            if own > value.untyped_storage().nbytes() or total > 4 * size + MOST_BYTES:  # shared tables count each time
                raise Refused("it gives a block of numbers another size than it has")
        elif isinstance(value, (dict, list, tuple, argparse.Namespace)) and id(value) not in seen:
            seen.add(id(value))
            value = vars(value) if isinstance(value, argparse.Namespace) else value
            left.extend(value.values() if isinstance(value, dict) else value)


def _refusal(error: Exception) -> str | None:
    """Why a file was refused; None: it is damaged."""
    if isinstance(error, Refused):
        return f"refused, {error}; nothing of it was run"
    if re.search(r"GLOBAL|Trying to call|Can only|numpy type|persistent", str(error)):
        return "refused, it holds more than weights and settings; nothing of it was run"
    return None
