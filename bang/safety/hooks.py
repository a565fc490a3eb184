"""Replaces fairseq's functions that read checkpoints, unpack archives and exchange objects between workers.

fairseq-generate, -interactive, -validate, resuming, `--restore-file`, `--finetune-from-model`, the hub and ensembles
all call `checkpoint_utils.load_checkpoint_to_cpu` before they build anything.
"""

import argparse
import contextlib
import platform
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Literal

from fairseq import checkpoint_utils, file_utils
from fairseq.dataclass.utils import GlobalHydra, overwrite_args_by_name
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from omegaconf import OmegaConf

from ..errors import UserError
from . import files, settings
from .checkpoints import check_numbers
from .description import check_options, check_weights_fit

_UPGRADING = threading.Lock()


@contextlib.contextmanager
def _hydra_alone() -> Iterator[None]:
    """fairseq upgrades 0.9's options through Hydra's global state, which other threads and the application use too."""
    with _UPGRADING:
        before = GlobalHydra.instance().hydra
        try:
            yield
        finally:
            GlobalHydra.instance().hydra = before


class Weights(OrderedDict[str, Any]):
    """Weights of a checkpoint, which know its file: a model that they do not fit names it."""

    source = "checkpoint"

    def __reduce__(self) -> Any:  # for workers that train together they are what every checkpoint holds
        return OrderedDict(self).__reduce__()


FILE = "checkpoint"
"""Key in a `task_state` of the file that it came from."""


def load_checkpoint_to_cpu(path: str, arg_overrides: dict | None = None, load_on_all_ranks: bool = False) -> dict:
    """fairseq's function of this name, also for untrusted files.

    Raises:
        ValueError: the file cannot be read, holds more than data, or names what may not be built; one line.
    """
    state = settings.check(files.read(PathManager.get_local_path(path)), path)
    if (
        isinstance(state.get("task_state"), dict) and "dictionaries" in state["task_state"]
    ):  # a task of ours, which names the file
        state["task_state"] = {**state["task_state"], FILE: path}
    overrides = arg_overrides or {}  # from the user, so they may name files
    try:
        for name, value in overrides.items() if state.get("args") else ():
            setattr(state["args"], name, value)
        if state.get("cfg"):
            state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
            overwrite_args_by_name(state["cfg"], overrides)
        with _hydra_alone():
            state = checkpoint_utils._upgrade_state_dict(state)
    except Exception as error:  # whatever is missing or unexpected in a file
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"checkpoint {path}: its settings are none that fairseq can use ({type(error).__name__}: {reason})"
        ) from None
    if settings.is_ours("model", state["cfg"].model._name):
        options, training = (_as_dict(state["cfg"][kind]) for kind in ("model", "criterion"))
        check_options(options, f"checkpoint {path}")
        check_options(training, f"checkpoint {path}")
        check_weights_fit(options, state["model"], f"checkpoint {path}")
        check_numbers(state["model"], f"checkpoint {path}")
        state["model"] = Weights(state["model"])
        state["model"].source = f"checkpoint {path}"
    return state


def _as_dict(section: Any) -> dict[str, Any]:
    found = OmegaConf.to_container(section, enum_to_str=True) if OmegaConf.is_config(section) else {}
    return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}


_broadcast_object_slow = distributed_utils._broadcast_object_slow


def broadcast_object_slow(*args: Any, **kwargs: Any) -> Any:
    """fairseq's function of this name, which sends what the first worker read from a checkpoint to the others."""
    with files.only_plain_data(distributed_utils._TensorPlaceholder):
        return files.plain(_broadcast_object_slow(*args, **kwargs))


def open_archive(path: str, mode: Literal["r", "r:gz", "r:bz2"] = "r") -> tarfile.TarFile:
    """Opens an archive for fairseq's hub; a member that would be unpacked outside its folder is an error.

    Raises:
        ValueError: Python is older than 3.11.4 and cannot refuse such members.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError(
            f"{path}: Python {platform.python_version()} cannot unpack an archive safely; unpack it yourself and give the "
            "folder, or use Python 3.11.4 or later"
        )
    archive = tarfile.open(path, mode)
    archive.extraction_filter = tarfile.data_filter
    return archive


def install() -> None:
    """Makes fairseq use the functions of this module."""
    file_utils.tarfile = argparse.Namespace(open=open_archive)
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    distributed_utils._broadcast_object_slow = broadcast_object_slow
