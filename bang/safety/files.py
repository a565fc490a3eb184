"""What a checkpoint file may hold: weights, numbers, text, and containers of them.

torch's weights-only loader restores what its allow-list names. Ours is in force while a checkpoint is read
and at no other time, and maps every foreign name whose restoring would take the file's word for anything
(numpy's arrays, omegaconf's containers) to a class of ours that takes plain values alone.
"""

import argparse
import contextlib
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from fairseq.logging import meters

from ..errors import UserError

_METERS = ("AverageMeter", "SumMeter", "TimeMeter", "StopwatchMeter")
_NUMBER = re.compile(r"(b1|[iufc]\d{1,2})")  # numpy's codes of booleans, integers and floats


class _NumberType:
    """Stands in for numpy.dtype: `('f8', False, True)`, then its state, of which the byte order counts."""

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise pickle.UnpicklingError(f"numpy type {code!r:.40}")
        self.type = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.type = self.type.newbyteorder(state[1])


class _Array:
    """Stands in for a numpy array; `__setstate__` makes one out of bytes, which numpy counts against the shape."""

    def __init__(self, *ignored: Any):  # as numpy's _reconstruct: the class, an empty shape, a type code
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_column, data = state
        flat = np.frombuffer(data, dtype=kind.type)
        self.value = flat.reshape(shape, order="F" if by_column else "C").copy()


def _scalar(kind: _NumberType, data: bytes) -> np.generic:
    """Stands in for numpy's scalar: one number out of its bytes."""
    (number,) = np.frombuffer(data, dtype=kind.type)
    return number


class _Config:
    """Stands in for omegaconf's containers, leaves and notes about types: keeps the values, drops the rest."""

    def __init__(self, *ignored: Any):
        self.value = None

    def __setstate__(self, state: dict) -> None:
        self.value = state.get("_content", state.get("_val"))


class DamagedError(UserError):
    """A checkpoint that cannot be read: half of one, or none."""


def _allowed() -> list[tuple[Callable, str]]:
    """What a file may name beside torch's own tensors and containers, by the name it has there."""
    # fairseq 0.9 pickled its options and, in `extra_state`, its meters, which were one module higher then
    allowed: list[tuple[Callable, str]] = [(argparse.Namespace, "argparse.Namespace")]
    for module in ("fairseq.meters", "fairseq.logging.meters"):
        allowed += [(getattr(meters, name), f"{module}.{name}") for name in _METERS]
    # averages of losses are numpy scalars, those of BLEU's counts arrays; numpy 2 moved the functions
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(_Array, f"{module}._reconstruct"), (_scalar, f"{module}.scalar")]
    allowed += [(_Array, "numpy.ndarray"), (_NumberType, "numpy.dtype")]
    # fairseq between 0.10 and 0.12 at times pickled its options as omegaconf holds plain values
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
    """Within, torch.load reads what fairseq's checkpoints hold, and `more`; `plain` finishes what it read."""
    with _READING, torch.serialization.safe_globals([*_allowed(), *more]):
        yield


def plain(value: Any) -> Any:
    """The value with stand-ins replaced by plain values, in place where a container allows it."""
    if isinstance(value, (_Array, _Config)):
        return plain(value.value)
    if isinstance(value, dict):
        for key in value:
            value[key] = plain(value[key])
    elif isinstance(value, list):
        value[:] = map(plain, value)
    elif type(value) in (tuple, set):
        return type(value)(map(plain, value))
    elif isinstance(value, (argparse.Namespace, *(getattr(meters, name) for name in _METERS))):
        plain(vars(value))
    return value


def read(path: str, mmap: bool = False) -> dict:
    """Reads a checkpoint file onto the CPU: plain data alone, whatever the file says.

    Args:
        path: the file.
        mmap: leave weights on disk until they are looked at; for a look at a file that stays as it is.
    Raises:
        ValueError: it is missing, truncated, not a checkpoint, or holds more than data. One line.
    """
    if os.path.isdir(path):
        raise UserError(f"checkpoint {path}: is a folder; of one of bang pack, make a checkpoint with bang unpack {path} FILE")
    if not os.path.isfile(path):
        raise UserError(f"checkpoint {path}: no such file")
    try:
        with only_plain_data():
            # files of torch < 1.6 cannot be mapped
            state = plain(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path)))
    except Exception as error:  # torch, pickle, zip and numpy each have their own; torch's advice is not ours
        reason = _reason(error)
        raise (UserError if reason else DamagedError)(f"checkpoint {path}: {reason or _DAMAGED}") from None
    if not isinstance(state, dict):
        raise UserError(f"checkpoint {path}: holds a {type(state).__name__}, not a fairseq checkpoint")
    return state


_DAMAGED = "cannot be read; truncated, or no fairseq checkpoint"


def _reason(error: Exception) -> str | None:
    """Why a file was refused, in our words; None: it is damaged."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"refused, it holds {named[1]}, which is no weight or setting; nothing of it was run"
    if re.search(r"Trying to call|Can only|numpy type|persistent", str(error)):
        return "refused, it holds more than weights and settings; nothing of it was run"
    return None
