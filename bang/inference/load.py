"""Loads a model into the engine that it is made for, and imports what is heavy."""

import contextlib
import importlib
import logging
import os
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from ..errors import UserError
from ..packages import install_command
from ..safety.folder import EXPORT, MODEL, VOCABULARY, read_config
from ..text.casing import Casing
from ..text.files import StrPath
from ..text.vocabulary import Normalization

_ENGINES = {MODEL: "bang.inference.torch_engine", EXPORT: "bang.inference.onnx_engine"}
_EXTRAS = {"onnxruntime": "runtime", "onnx": "export", "onnxscript": "export", "transformers": "hf"}
"""Extras of pyproject.toml that bring packages which bang itself does not."""


class Loaded(NamedTuple):
    """What `Bang.load` makes a `Bang` of.

    Attributes:
        engine: see `engine.Engine`.
        pieces: the vocabulary in the order of its ids.
        generation: defaults of `options.Options`.
        normalization: of the vocabulary's text.
        casing: gives texts capitals; None: there is none.
    """

    engine: Any
    pieces: list[str]
    generation: dict[str, Any]
    normalization: Normalization
    casing: Casing | None


def load_model(model: StrPath, vocab: StrPath | None = None, **options) -> Loaded:
    """Loads a model into the engine it is made for.

    Args:
        model: a folder, or a checkpoint of fairseq-train.
        vocab: a checkpoint's vocabulary.
        options: link (see `find_link`), casing (see `find_casing`), and the engine's: device, dtype, threads.
    Raises:
        FileNotFoundError, ValueError: one line.
    """
    if not os.path.isdir(model):
        if not os.path.exists(model):
            raise FileNotFoundError(f"{model}: no such model; give a folder of bang pack or bang export, or a checkpoint")
        return import_heavy(_ENGINES[MODEL]).load_checkpoint(model, vocab, **options)
    config = read_config(model, MODEL, EXPORT)
    if vocab is not None:
        raise UserError(f"{model}: brings its own {VOCABULARY}; give no other vocabulary")
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
        raise UserError(
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
