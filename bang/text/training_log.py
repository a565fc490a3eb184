"""fairseq-train's log: what it says of training and validation, by update."""

import json
import re
from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from .files import StrPath, read_lines

Curves = dict[str, dict[int, float]]
"""{"train_inner loss": {update: value}, "valid nar_loss": …}"""

# --log-format json, and what simple, tqdm and none write
_JSON = re.compile(r"\| (train_inner|train|valid) \| (\{.*\})$")
_SIMPLE = re.compile(r"\| (train_inner|train|valid) \| (epoch .*)$")
_VALUE = re.compile(r"([\w-]+)[= ](-?[\d.]+(?:e[+-]?\d+)?)(?=[,| ]|$)")


def read_curves(log: StrPath) -> Curves:
    """Reads the values that a run logged, by the update that they were logged at.

    Of what a resumed run went through again the last is kept.

    Raises:
        FileNotFoundError: no such file.
        ValueError: there is no record of training in the log.
    """
    curves: Curves = {}
    for kind, values in _records(log):
        prefix = "" if kind == "train_inner" else f"{kind}_"
        update = values.pop(f"{prefix}num_updates", values.pop("num_updates", None))
        if update is None:
            continue
        for name, value in values.items():
            curve = curves.setdefault(f"{kind} {name.removeprefix(prefix)}", {})
            curve[int(float(update))] = float(value)
    if not any(name.startswith("train") for name in curves):
        raise UserError(f"{log}: no record of training: give the output of fairseq-train")
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


_SHOWN = re.compile(r"\| bang\.progress \| (.*)|\| ((?:WARNING|ERROR|CRITICAL) \| .*)|^(expected: .*)")


def for_terminal(line: str) -> str | None:
    """The part of a log line that is shown during training: progress and warnings."""
    match = _SHOWN.search(line)
    return match[match.lastindex or 0] if match else None


def _records(log: StrPath) -> Iterator[tuple[str, dict[str, str]]]:
    for line in read_lines(log):
        line = line.rstrip("\r")
        if match := _JSON.search(line):
            yield match[1], {name: value for name, value in json.loads(match[2]).items() if _is_number(value)}
        elif match := _SIMPLE.search(line):
            yield match[1], dict(_VALUE.findall(match[2]))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
