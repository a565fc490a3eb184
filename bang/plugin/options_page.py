"""A page of the options that BANG adds to fairseq's command lines, made from the configurations themselves."""

import argparse
from dataclasses import fields, is_dataclass

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import MODEL_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY

from .. import plugin  # noqa: F401  (registers)
from ..network.config import ARCHITECTURES

HEAD = """\
# Options

What BANG adds to fairseq's command lines; their `--help` lists fairseq's own options only. Written by
`python -m bang options > docs/options.md`.
"""
OURS = __name__.split(".")[0]


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    for kind, registry in {"--task": TASK_REGISTRY, "--criterion": CRITERION_REGISTRY, **_others()}.items():
        ours = {name: cls for name, cls in sorted(registry.items()) if cls.__module__.startswith(f"{OURS}.")}
        rows_of = {name: _rows(cls) for name, cls in ours.items()}
        everywhere = [row for row in sum(rows_of.values(), []) if all(row in rows for rows in rows_of.values())]
        shared = list(dict.fromkeys(everywhere)) if len(ours) > 2 else []
        if shared:
            parts += [f"## Every `{kind}`\n", _table(shared)]
        for name, cls in ours.items():
            rows = [row for row in rows_of[name] if row not in shared]
            bases = [base for base, base_class in ours.items() if cls is not base_class and issubclass(cls, base_class)]
            for base in bases:
                rows = [row for row in rows if row not in rows_of[base]]
            if rows:
                parts.append(f"## `{kind} {name}`\n")
                parts += [f"Those of `{kind} {base}`, and:\n" for base in bases]
                parts.append(_table(rows))
    parts += [
        "## `--arch bang_ar_nar_mixed`, `bang_ar`, `bang_nar`\n",
        "Each also as `_base`, `_middle` and `_large`, whose defaults follow in brackets where they differ.\n",
        _table(_rows(MODEL_REGISTRY["bang_ar_nar_mixed"])),
    ]
    return "\n".join(parts)


def _others() -> dict[str, dict]:
    """fairseq's other registries, as `--bpe` and `--tokenizer`."""
    others = {f"--{name.replace('_', '-')}": registry["registry"] for name, registry in REGISTRIES.items()}
    return {option: registry for option, registry in others.items() if option != "--criterion"}


def _options(cls: type) -> list[argparse.Action]:
    """The options of a registered class, less those that are as a base of fairseq's brings them, in order."""
    config, parser = getattr(cls, "__dataclass", None), argparse.ArgumentParser(add_help=False)
    inherited = set()
    if config is not None:
        gen_parser_from_dataclass(parser, config())
        bases = [base for base in config.__mro__ if base.__module__.startswith("fairseq.") and is_dataclass(base)]
        inherited = {field.name for base in bases for field in fields(base)}
        ours = [base for base in config.__mro__ if base.__module__.startswith("bang.")]
        inherited -= {name for base in ours for name in base.__annotations__}
    found = {action.dest: action for action in parser._actions}
    if hasattr(cls, "add_args"):  # --min-lr is no field
        parser = argparse.ArgumentParser(add_help=False)
        cls.add_args(parser)
        found = {**{action.dest: action for action in parser._actions}, **found}  # a model's has no defaults
    return [action for name, action in found.items() if name not in inherited]


def _rows(cls: type) -> list[str]:
    rows = []
    for action in _options(cls):
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.dest}`"
        choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
        cells = names + choices, _default(action), (action.help or "").replace("|", r"\|")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _table(rows: list[str]) -> str:
    return "\n".join(["| option | default | |", "| --- | --- | --- |", *rows]) + "\n"


def _default(action: argparse.Action) -> str:
    if action.default in (None, argparse.SUPPRESS) or action.required:
        return ""
    plain, *named = [_value(defaults.get(action.dest, action.default)) for defaults in ARCHITECTURES.values()]
    if len(set(named)) > 1:
        return f"{plain} ({', '.join(named)})"
    return plain if named[0] == plain else f"{plain} ({named[0]})"


def _value(value: object) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else f"{value}"
