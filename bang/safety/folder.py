"""The folders of `bang pack` and `bang export`: what config.json must hold, and whether a folder is complete.

Its config.json begins with `format` and `version`; `bang/deploy` writes the two kinds.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..modes import MODES
from ..options import DESCRIBED, Options
from ..text.files import StrPath
from ..text.vocabulary import read_vocabulary
from .description import check_options, read_description

CONFIG, WEIGHTS, VOCABULARY, CARD = "config.json", "model.safetensors", "vocab.txt", "README.md"
MODEL, EXPORT = "bang model", "bang export"
HUGGING_FACE = "bang"
"""The `model_type` in config.json of a folder for Hugging Face's transformers, which is no format of ours."""
VERSIONS = {MODEL: 1, EXPORT: 1}


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind  # so that True does not pass as a number


def _from(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= 1 << 40


def _list_of(serves: Callable[[Any], bool], least: int, most: int = sys.maxsize) -> Callable[[Any], bool]:
    return lambda value: type(value) is list and least <= len(value) <= most and all(map(serves, value))


def _are_shares(value: Any) -> bool:
    return type(value) is dict and all(type(share) in (int, float) and math.isfinite(share) for share in value.values())


_KEYS = {
    MODEL: dict(
        architecture=_is(str), sizes=_is(dict), criterion=_is(dict), updates=_from(0), generation=_is(dict),
        languages=_list_of(lambda name: name is None or type(name) is str, 2, 2),
    ),
    EXPORT: dict(
        modes=_list_of(lambda name: type(name) is str and name in MODES, 1), shares=_are_shares,
        precision=_is(str), generation=_is(dict),
        max_source_positions=_from(1), max_target_positions=_from(1), num_buckets=_from(2), relative_max_distance=_from(2),
        specials=_list_of(_from(0), 3, 3),
    ),
}  # fmt: skip
"""What config.json must hold, and checks of the values."""
_MAY = dict(
    files=_list_of(_is(str), 0), blocks=_list_of(_from(0), 2, 2), reduce_range=_is(bool),
    sha256=lambda sums: type(sums) is dict and all(type(sum) is str for sum in sums.values()),
)  # fmt: skip
"""What it may hold besides; null counts as missing."""


def read_config(folder: StrPath, *formats: str) -> dict[str, Any]:
    """Reads config.json and checks that the folder has one of `formats`, a known version, and all its files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: config.json is not ours, or of another version; one line.
    """
    path = Path(folder, CONFIG)
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no {CONFIG} in it, so no model; make one with bang pack or bang export")
    config = read_description(path)
    kind = config.get("format")
    if is_for_transformers(folder):
        raise UserError(
            f"{folder}: a folder for Hugging Face's transformers; bang pack {folder} FOLDER turns it into one of ours"
        )
    if not isinstance(kind, str) or kind not in formats:
        raise UserError(f"{path}: format {kind!r} is not {' or '.join(map(repr, formats))}")
    if config.get("version") != VERSIONS[kind] or config["version"] is True:
        raise UserError(
            f"{path}: {kind} of version {config.get('version')!r}, and version {VERSIONS[kind]} is wanted; make it again"
        )
    lacking = [name for name, serves in _KEYS[kind].items() if not serves(config.get(name))]
    lacking += [name for name, serves in _MAY.items() if config.get(name) is not None and not serves(config[name])]
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}, or has something else there; make it again")
    for options in (config, config.get("sizes") or {}, config.get("criterion") or {}):
        check_options(options, str(path))
    try:
        Options(**{name: value for name, value in config["generation"].items() if name in DESCRIBED})
    except UserError as error:
        raise UserError(f"{path}: generation default {error}") from None
    for name in config.get("files") or ():
        if not Path(folder, name).is_file():
            raise FileNotFoundError(f"{folder}: lacks {name}; make it again, or copy all of it")
    _check_sums(folder, config)
    return config


def is_for_transformers(folder: StrPath) -> bool:
    """Whether a folder is one of bang's for Hugging Face's transformers; not if its config.json cannot be read."""
    try:
        config = read_description(Path(folder, CONFIG))
    except (OSError, UserError):
        return False
    return "format" not in config and config.get("model_type") == HUGGING_FACE


_OF_NETWORK = (
    "architecture", "sizes", "precision", "max_source_positions", "max_target_positions", "num_buckets",
    "relative_max_distance", "specials",
)  # fmt: skip
"""The keys of config.json that belong to the weights; others, such as defaults of generation, may be edited."""


def checksums(folder: StrPath, files: Iterable[str], config: dict[str, Any]) -> dict[str, str]:
    """The sha256 of a folder's files, and of the network's keys in its config.json; kept there as `sha256`."""
    found = {}
    for name in files:
        with open(Path(folder, name), "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    described = json.dumps({name: config.get(name) for name in _OF_NETWORK}, sort_keys=True)
    return {**found, CONFIG: hashlib.sha256(described.encode()).hexdigest()}


def _check_sums(folder: StrPath, config: dict[str, Any]) -> None:
    """Refuses a folder that has changed since it was made; folders of older versions have no checksums."""
    sums = config.get("sha256") or {}
    files = [name for name in sums if name in (config.get("files") or ())]
    for name, found in checksums(folder, files, config).items():
        if sums.get(name, found) != found:
            raise UserError(
                f"{Path(folder, name)}: damaged or changed since the folder was made (its checksum does not match): copy it "
                "again from where it comes, or make the folder again"
            )


def read_pieces(folder: StrPath) -> list[str]:
    """The vocabulary of a folder, in the order of its ids."""
    return list(read_vocabulary(Path(folder, VOCABULARY)))


def check_vocabulary(folder: StrPath, pieces: int, rows: int) -> None:
    """Checks that a folder's vocabulary has the size of its weights: a file may be cut at the end of a line.

    Args:
        pieces: word pieces of the vocabulary. rows: rows of the network's table of embeddings.

    Raises:
        ValueError: one line.
    """
    if pieces != rows:
        raise UserError(f"{Path(folder, VOCABULARY)}: {pieces} word pieces, and the weights are of {rows}; copy the folder whole")
