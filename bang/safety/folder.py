"""The folders of `bang pack` and `bang export`: what config.json must hold, and whether a folder is whole.

Its config.json begins with `format` and `version`; `bang/deploy` writes the two kinds.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..modes import MODES
from ..text.files import StrPath
from ..text.vocabulary import read_vocabulary

CONFIG, WEIGHTS, VOCABULARY, CARD = "config.json", "model.safetensors", "vocab.txt", "README.md"
MODEL, EXPORT = "bang model", "bang export"
HUGGING_FACE = "bang"
"""The `model_type` in config.json of a folder for Hugging Face's transformers, which is no format of ours."""
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
        modes=_list_of(lambda name: type(name) is str and name in MODES, 1), shares=_are_shares,
        precision=_is(str), generation=_is(dict),
        max_source_positions=_from(1), max_target_positions=_from(1), num_buckets=_from(2), relative_max_distance=_from(2),
        specials=_list_of(_from(0), 3, 3),
    ),
}  # fmt: skip
"""What config.json must hold, and what of it serves."""
_MAY = dict(files=_list_of(_is(str), 0), blocks=_list_of(_from(0), 2, 2), reduce_range=_is(bool))
"""What it may hold besides, if not null."""


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
        raise UserError(f"{path}: not JSON ({error})") from None
    kind = config.get("format") if isinstance(config, dict) else None
    if is_for_transformers(folder):
        raise UserError(
            f"{folder}: a folder for Hugging Face's transformers; bang pack {folder} FOLDER turns it into one of ours"
        )
    if kind not in formats:
        raise UserError(f"{path}: format {kind!r} is not {' or '.join(map(repr, formats))}")
    if config.get("version") != VERSIONS[kind] or config["version"] is True:
        raise UserError(
            f"{path}: {kind} of version {config.get('version')!r}, and version {VERSIONS[kind]} is wanted; make it again"
        )
    lacking = [name for name, serves in _KEYS[kind].items() if not serves(config.get(name))]
    lacking += [name for name, serves in _MAY.items() if config.get(name) is not None and not serves(config[name])]
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}, or has something else there; make it again")
    for name in config.get("files") or ():
        if not Path(folder, name).is_file():
            raise FileNotFoundError(f"{folder}: lacks {name}; make it again, or copy it whole")
    return config


def is_for_transformers(folder: StrPath) -> bool:
    """Whether a folder is one for Hugging Face's transformers, of bang; a config.json that cannot be read is of none."""
    try:
        config = json.loads(Path(folder, CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "format" not in config and config.get("model_type") == HUGGING_FACE


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
        raise UserError(f"{Path(folder, VOCABULARY)}: {pieces} word pieces, and the weights are of {rows}; copy the folder whole")
