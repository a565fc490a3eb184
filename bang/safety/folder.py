"""What a model is made of on disk: the folders of `bang pack` and `bang export`, and fairseq's checkpoints.

Light: says which engine a model wants and leaves the rest to it. A folder's config.json begins with
`format` and `version`; `bang/deploy` writes the two kinds.
"""

import contextlib
import importlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ..modes import MODES
from ..packages import install_command
from ..text.files import StrPath
from ..text.vocabulary import read_vocabulary

CONFIG, WEIGHTS, VOCABULARY, CARD = "config.json", "model.safetensors", "vocab.txt", "README.md"
MODEL, EXPORT = "bang model", "bang export"
VERSIONS = {MODEL: 1, EXPORT: 1}


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind  # True is no number


def _from(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


def _list_of(serves: Callable[[Any], bool], least: int, most: int = sys.maxsize) -> Callable[[Any], bool]:
    return lambda value: type(value) is list and least <= len(value) <= most and all(map(serves, value))


def _are_shares(value: Any) -> bool:
    return type(value) is dict and all(type(share) in (int, float) for share in value.values())


_KEYS = {
    MODEL: dict(
        architecture=_is(str), sizes=_is(dict), criterion=_is(dict), updates=_from(0), languages=_is(list), generation=_is(dict),
    ),
    EXPORT: dict(
        modes=_list_of(lambda name: name in MODES, 1), shares=_are_shares, precision=_is(str), generation=_is(dict),
        max_source_positions=_from(1), max_target_positions=_from(1), num_buckets=_from(2), relative_max_distance=_from(2),
        specials=_list_of(_from(0), 3, 3),
    ),
}  # fmt: skip
"""What config.json must hold, and what of it serves."""
_MAY = dict(files=_list_of(_is(str), 0), blocks=_list_of(_from(0), 2, 2), reduce_range=_is(bool))
"""What it may hold besides, if not null."""

_ENGINES = {MODEL: "bang.inference.torch_engine", EXPORT: "bang.inference.onnx_engine"}
_EXTRAS = {"onnxruntime": "runtime", "onnx": "export", "onnxscript": "export"}
"""Extras of setup.py that bring packages which bang itself does not."""


def read_config(folder: StrPath, *formats: str) -> dict[str, Any]:
    """Reads config.json and checks that the folder is of one of `formats`, of a version known here, and whole.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: config.json is none of ours, or of another version; one line.
    """
    path = Path(folder, CONFIG)
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no {CONFIG} in it, so no model; make one with bang pack or bang export")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    kind = config.get("format") if isinstance(config, dict) else None
    if kind not in formats:
        raise ValueError(f"{path}: format {kind!r} is not {' or '.join(map(repr, formats))}")
    if config.get("version") != VERSIONS[kind] or config["version"] is True:
        raise ValueError(
            f"{path}: {kind} of version {config.get('version')!r}, and version {VERSIONS[kind]} is wanted; make it again"
        )
    lacking = [name for name, serves in _KEYS[kind].items() if not serves(config.get(name))]
    lacking += [name for name, serves in _MAY.items() if config.get(name) is not None and not serves(config[name])]
    if lacking:
        raise ValueError(f"{path}: lacks {', '.join(lacking)}, or has something else there; make it again")
    for name in config.get("files") or ():
        if not Path(folder, name).is_file():
            raise FileNotFoundError(f"{folder}: lacks {name}; make it again, or copy it whole")
    return config


def read_pieces(folder: StrPath) -> list[str]:
    """The vocabulary of a folder, in the order of its ids."""
    return list(read_vocabulary(Path(folder, VOCABULARY)))


def check_vocabulary(folder: StrPath, pieces: int, rows: int) -> None:
    """Checks that a folder's vocabulary is that of its weights: a file may be cut at the end of a line.

    Args:
        pieces: how many the vocabulary has. rows: of the network's table of embeddings.

    Raises:
        ValueError: one line.
    """
    if pieces != rows:
        raise ValueError(f"{Path(folder, VOCABULARY)}: {pieces} word pieces, and the weights are of {rows}; copy the folder whole")


def load(model: StrPath, vocab: StrPath | None = None, **options) -> tuple[Any, list[str], dict[str, Any]]:
    """Loads a model into the engine it is made for.

    Args:
        model: a folder, or a checkpoint of fairseq-train.
        vocab: a checkpoint's vocabulary.
        options: the engine's: device, dtype, threads.
    Returns:
        Engine, vocabulary in the order of its ids, generation defaults.
    Raises:
        FileNotFoundError, ValueError: one line.
    """
    if not os.path.isdir(model):
        if not os.path.exists(model):
            raise FileNotFoundError(f"{model}: no such model; give a folder of bang pack or bang export, or a checkpoint")
        return import_heavy(_ENGINES[MODEL]).load_checkpoint(model, vocab, **options)
    config = read_config(model, MODEL, EXPORT)
    if vocab is not None:
        raise ValueError(f"{model}: brings its own {VOCABULARY}; give no other vocabulary")
    return import_heavy(_ENGINES[config["format"]]).load(model, config, **options)


def import_heavy(name: str) -> ModuleType:
    """Imports a module that loads torch and fairseq, or onnxruntime, and leaves logging as it was.

    fairseq's imports would send every library's debug messages to stderr where the root logger has no handler yet.

    Raises:
        ValueError: a package that it needs is not installed; one line that says how to.
    """
    try:
        with _IMPORTING, _unchanged_logging():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or "bang").partition(".")[0]
        if package == "bang":
            raise
        raise ValueError(
            f"needs {package}, which is not installed: {install_command(package, _EXTRAS.get(package, ''))}"
        ) from None


_IMPORTING = threading.RLock()  # the root logger's handlers are everybody's


@contextlib.contextmanager
def _unchanged_logging() -> Iterator[None]:
    """Within, `logging.basicConfig` does nothing, as it never does where there is a handler."""
    root = logging.getLogger()
    stand_in = None if root.handlers else logging.lastResort
    if stand_in is not None:
        root.addHandler(stand_in)
    try:
        yield
    finally:
        if stand_in is not None:
            root.removeHandler(stand_in)
