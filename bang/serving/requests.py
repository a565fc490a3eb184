"""Parses and checks a request: the arguments of `Bang.generate`, as JSON."""

import difflib
import json
from dataclasses import dataclass
from typing import Any

from .. import modes
from ..errors import UserError
from ..inference.api import Bang
from ..options import DESCRIBED

TEXTS, PREFIX = "texts", "prefix"
SWITCHES = {
    "truncate": ((True, False), False, "cut texts that are longer than the model takes; else they are an error"),
    "drop_repeats": ((True, False, None), None, "drop a word that repeats the one before it; null: in NAR and semi-NAR alone"),
    "on_error": (("raise", "blank"), "raise", "blank: a text that cannot be generated is empty, and its error says why; "
                 "raise: the request fails"),
}  # fmt: skip
"""Arguments besides the texts and the options: the choices, default and help of each."""


MULTIPLIERS = tuple(name for name in ("beam", "nbest", "rescore") if name in DESCRIBED)
"""Options that set the number of hypotheses per text."""


@dataclass(frozen=True)
class Limits:
    """What a service accepts.

    Attributes:
        body: bytes of a request's body.
        texts: texts per request.
        requests: requests at once, waiting ones included.
        hypotheses: value of each of `MULTIPLIERS`; time and memory grow with it.
    """

    body: int = 1 << 20
    texts: int = 64
    requests: int = 128
    hypotheses: int = 8


class Refusal(UserError):
    """A refused request.

    Attributes:
        status: HTTP status of the answer.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def parse(body: bytes, model: Bang, limits: Limits) -> dict[str, Any]:
    """The arguments of `Bang.generate` that a request's body holds.

    Raises:
        UserError: the body is anything else; one line. A `Refusal` if the status is not 400.
    """
    arguments = _read_json(body)
    known = [TEXTS, PREFIX, *SWITCHES, *DESCRIBED]
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f", maybe {near[0]} is meant" if near else ""
            raise UserError(f"{name[:80]!r}: no such argument{meant}; there are {', '.join(known)}")
    texts = arguments.get(TEXTS)
    if not isinstance(texts, (str, list)):
        raise UserError(f"{TEXTS}: give a text or a list of texts")
    if isinstance(texts, list) and len(texts) > limits.texts:
        raise Refusal(413, f"{len(texts)} texts in one request; the limit is {limits.texts}: send several requests")
    prefix = arguments.setdefault(PREFIX, "")
    if not (isinstance(prefix, str) or isinstance(prefix, list) and all(isinstance(one, str) for one in prefix)):
        raise UserError(f"{PREFIX}={_shown(prefix)}: give what all texts begin with, or a list with one for each text")
    for name, (choices, default, _) in SWITCHES.items():
        value = arguments.setdefault(name, default)
        if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
            raise UserError(f"{name}={_shown(value)}: give one of {', '.join(map(json.dumps, choices))}")
    _check_options({name: value for name, value in arguments.items() if name in DESCRIBED}, model, limits)
    return arguments


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        arguments = json.loads(body.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise UserError("the body is nested too deeply for a request") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number with thousands of digits
        raise UserError(f"the body is no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise UserError(f'the body is {_kind(arguments)}: give an object, as {{"{TEXTS}": ["some text"]}}')
    return arguments


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is none of its numbers")


def _check_options(given: dict[str, Any], model: Bang, limits: Limits) -> None:
    """Refuses options that the model or the mode lacks, before any text is looked at."""
    model.generate([], **given)
    mode = modes.find(given.get("mode") or model.defaults.mode)
    idle = {"beam": (1,), "link": (None, False)}  # values that every mode accepts
    without = [name for name in modes.options_without_effect(mode, given) if given[name] not in idle.get(name, ())]
    if without:
        raise UserError(f"{', '.join(without)}: no effect in mode {mode.name}; leave it out, or give another mode")
    for name in MULTIPLIERS:
        if given.get(name, 1) > limits.hypotheses:
            raise UserError(f"{name}={given[name]}: this service's limit is {limits.hypotheses}")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
