"""What a checkpoint may name.

fairseq builds whatever model, task and criterion a checkpoint's settings name, evaluates some of their options as
Python and opens files that others name. Here a checkpoint may name what this package registers and what the user allows;
its other settings are kept as data.
"""

import argparse
import ast
import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fairseq import models as fairseq_models
from fairseq import tasks as fairseq_tasks
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ..errors import UserError

CLASSES = {
    "model": fairseq_models.ARCH_MODEL_REGISTRY,
    "task": fairseq_tasks.TASK_REGISTRY,
    "criterion": CRITERION_REGISTRY,
}
DATACLASSES = {
    "model": fairseq_models.MODEL_DATACLASS_REGISTRY,
    "task": fairseq_tasks.TASK_DATACLASS_REGISTRY,
    "criterion": CRITERION_DATACLASS_REGISTRY,
}
LEGACY_NAMES = {"model": "arch", "task": "task", "criterion": "criterion"}
"""Where fairseq 0.9's flat options hold the three names."""

FILES = {"data", "checkpoint_paths", "restore_file", "save_dir", "load_from_pretrained_model"}
"""Options that are read as paths even where they look like a plain word."""

_FAIRSEQ_CRITERIONS = {"label_smoothed_cross_entropy", "cross_entropy"}  # bang_nar trains with them; they evaluate nothing
_FAIRSEQ_TASKS = {"translation", "language_modeling"}  # tasks of other models that write text
_allowed: dict[str, set[str]] = {kind: set() for kind in CLASSES}

_WORDS = re.compile(r"[\w.,:+@?~/\\ -]*")  # harmless even if fairseq evaluates it
_LITERAL = (
    ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Load,
    ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Mult,
)  # fmt: skip


def allow(models: Iterable[str] = (), criterions: Iterable[str] = ()) -> None:
    """Lets checkpoints name more than BANG's: fairseq's own models, or ones that the user's code registers.

    Called for what the user's command line names: `--arch`, `--criterion`, `--other-models`. fairseq evaluates
    options of some of its models (`fconv`, `wav2vec`, ...); here they must be plain literals.
    """
    _allowed["model"].update(models)
    _allowed["criterion"].update(criterions)


def is_ours(kind: str, name: str) -> bool:
    """Whether a model, task or criterion is BANG's."""
    return CLASSES[kind][name].__module__.partition(".")[0] == __package__.partition(".")[0]


def may_build(kind: str, name: Any) -> bool:
    """Whether a checkpoint may name this model, task or criterion."""
    if not isinstance(name, str) or name not in CLASSES[kind]:
        return False
    if is_ours(kind, name) or name in _allowed[kind]:
        return True
    if kind == "task":
        return name in _FAIRSEQ_TASKS and bool(_allowed["model"])
    return kind == "criterion" and name in _FAIRSEQ_CRITERIONS


FRESH: dict[str, Any] = {
    "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
    "extra_state": {
        "train_iterator": {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}, "metrics": {},
        "previous_training_time": 0,
    },
}  # fmt: skip
"""fairseq's training state before the first update."""


def check(state: dict, path: str) -> dict:
    """Makes the settings of a checkpoint from `files.read` safe for fairseq.

    Returns:
        A copy with `args` and `cfg` replaced: names of files and packages are gone, text is words or literals. A file
        without a training state (only weights and options) starts a new training.
    Raises:
        ValueError: no fairseq checkpoint, or one that names what may not be built. One line.
    """
    weights = state.get("model")
    if not isinstance(weights, dict) or not (state.get("args") or state.get("cfg")):
        raise UserError(f"checkpoint {path}: no fairseq checkpoint, it lacks 'model' or the training options")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise UserError(f"checkpoint {path}: no fairseq checkpoint, its 'model' holds more than weights by name")
    state = dict(state)
    _check_course(state, path)
    try:
        if state.get("args"):
            state["args"] = _flat(_mapping(state["args"]))
        if state.get("cfg"):
            state["cfg"] = _sections(_mapping(state["cfg"]))
    except ValueError as error:
        raise UserError(f"checkpoint {path}: refused, {error}") from None
    return _with_course(state)


def _check_course(state: dict, path: str) -> None:
    """Refuses a training or task state of other types than fairseq's."""

    def typed(owner: Mapping[str, Any], name: str, kind: type) -> Any:
        value = owner.get(name)
        if value is not None and type(value) is not kind:
            raise UserError(f"checkpoint {path}: no fairseq checkpoint, its {name} is {value!r:.60}")
        return kind() if value is None else value

    typed(typed(state, "task_state", dict), "dictionaries", str)
    typed(typed(state, "extra_state", dict), "train_iterator", dict)
    for part in typed(state, "optimizer_history", list):
        typed(typed({"optimizer_history": part}, "optimizer_history", dict), "num_updates", int)


def _with_course(state: dict) -> dict:
    """Adds the training state that fairseq needs to resume, unless there is one, possibly in an old format."""
    if not state.get("optimizer_history") and "optimizer" not in state:
        state["optimizer_history"] = copy.deepcopy(FRESH["optimizer_history"])
    course = state.get("extra_state") or {}
    if "epoch" not in state and isinstance(course, dict) and not course.keys() & {"epoch", "train_iterator"}:
        state["extra_state"] = {**course, **copy.deepcopy(FRESH["extra_state"])}
    return state


def check_start(state: dict, source: str) -> None:
    """Refuses a pretrained start that names another model than BANG's.

    Only its weights are used, so a name that fairseq does not know, such as one of the authors' own code, is harmless.

    Args:
        source: its name in messages.
    """
    try:
        named = [_mapping(state["args"]).get("arch")] if state.get("args") else []
        named += [_mapping(_mapping(state["cfg"]).get("model")).get("_name")] if state.get("cfg") else []
        for name in named:
            if isinstance(name, str) and name in CLASSES["model"] and not may_build("model", name):
                raise UserError(_refusal("model", name))
    except ValueError as error:
        raise UserError(f"{source}: refused, {error}") from None


def _refusal(kind: str, name: Any) -> str:
    hint = "; --other-models names those of fairseq's that may be built too" if kind == "model" else ""
    return f"its {kind} {str(name)!r:.60} is none of BANG's{hint}"


def _mapping(settings: Any) -> dict[str, Any]:
    """A Namespace or dict as a new dict."""
    settings = vars(settings) if isinstance(settings, argparse.Namespace) else settings
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise UserError("its settings are no options by name")
    return dict(settings)


def _names(found: Mapping[str, Any]) -> None:
    """Refuses a model or task, or a criterion if there is one, that may not be built."""
    for kind, name in found.items():
        if not may_build(kind, name) and not (kind == "criterion" and name is None):
            raise UserError(_refusal(kind, name))


def _flat(args: dict) -> argparse.Namespace:
    """fairseq 0.9's options. Text stays only where the model, task or criterion has an option of that name."""
    names = {kind: args.get(option) for kind, option in LEGACY_NAMES.items()}
    _names(names)
    known = set().union(*(_fields(kind, name) or args.keys() for kind, name in names.items()))
    kept = {name: _plain(name, value) if name in known else _no_text(value) for name, value in args.items()}
    kept = {name: value for name, value in kept.items() if value is not None or args[name] is None}  # fairseq has defaults
    return argparse.Namespace(**{**kept, "data": "", **{LEGACY_NAMES[kind]: name for kind, name in names.items()}})


def _sections(cfg: dict) -> dict:
    """Today's options. Text stays only in the sections of the model, task and criterion, for options that those have."""
    sections = {kind: _mapping(cfg.get(kind) or {}) for kind in CLASSES}
    names = {kind: section.get("_name") for kind, section in sections.items()}
    _names(names)
    kept = {name: _no_text(section) for name, section in cfg.items() if name not in sections}
    for kind, section in sections.items():
        fields = _fields(kind, names[kind]) or section.keys()
        values = {name: _plain(name, section[name]) for name in section if name in fields}
        if kind == "task":
            values["data"] = ""
        dataclass = DATACLASSES[kind].get(names[kind])
        if dataclass is not None:
            _check_types(dataclass, values, kind)
        kept[kind] = {**values, "_name": names[kind]} if names[kind] else None
    return kept


def _fields(kind: str, name: str | None) -> set[str]:
    """The options of a model, task or criterion; none if fairseq keeps them in code."""
    return set(getattr(DATACLASSES[kind].get(name), "__dataclass_fields__", ()))


def _check_types(dataclass: type, values: dict, kind: str) -> None:
    try:
        OmegaConf.merge(dataclass(), values)
    except OmegaConfBaseException as error:
        raise UserError(f"its {kind} setting {error.full_key} is {values.get(error.full_key)!r:.60}") from None


def _plain(name: str, value: Any) -> Any:
    """A setting as data: names of files become None, other text must be words or literals."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(key, part) for key, part in value.items() if isinstance(key, str)}
    if isinstance(value, (list, tuple)):
        return [_plain(name, part) for part in value]
    if isinstance(value, str):
        if name in FILES:
            return None
        if not _WORDS.fullmatch(value) and not _is_literal(value):
            raise UserError(f"its setting {name} is no plain value: {value!r:.60}")
        return None if "/" in value or "\\" in value else value
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise UserError(f"its setting {name} is a {type(value).__name__}")


def _no_text(value: Any) -> Any:
    """Settings of other sections: numbers stay, text becomes None."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _no_text(part) for name, part in value.items() if isinstance(name, str)}
    if isinstance(value, (list, tuple)):
        return [_no_text(part) for part in value]
    return value if isinstance(value, (bool, int, float)) else None


def _is_literal(text: str) -> bool:
    """Whether text is an expression of numbers, text and containers alone, as `{"beam": 4}` or `[(512, 3)] * 20`."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return all(
        isinstance(node, _LITERAL) or isinstance(node, ast.Name) and node.id in ("true", "false", "null")
        for node in ast.walk(tree)
    )
