"""Checks checkpoints before use, and whether their weights fit a model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from . import settings
from .files import DamagedError, read

_SIZE_OPTIONS = {
    "embed_positions.weight": "--max-{side}-positions",
    "embed_tokens.weight": "--{side}-embed-dim, or the dictionary: the data may be binarized with another one",
    "fc1.weight": "--{side}-ffn-embed-dim",
    "relative_linear.weight": "--num-buckets or --decoder-attention-heads",
}


def check(path: str) -> dict:
    """Reads a checkpoint that fairseq is about to load, so that a bad one gets one clear line."""
    return settings.check(read(path, mmap=True), path)


def resumable(path: str) -> str:
    """The checkpoint to resume from: `path`, or if that is damaged the newest undamaged one beside it.

    Raises:
        DamagedError: it is damaged, and there is no other to resume from.
    """
    try:
        read(path, mmap=True)
    except DamagedError as error:
        updates = {other: _updates(str(other)) for other in Path(path).parent.glob("checkpoint*.pt")}
        if not any(updates.values()):
            raise DamagedError(f"{error}; no whole one lies beside it: remove it to begin anew") from None
        return str(max(updates, key=lambda other: updates[other]))
    except UserError:  # refused: loading it will say so
        pass
    return path


def _updates(path: str) -> int:
    """Updates of a checkpoint; 0: no run can resume from it."""
    try:
        state = read(path, mmap=True)
        return int(state["optimizer_history"][-1]["num_updates"]) if "last_optimizer_state" in state else 0
    except (UserError, LookupError, TypeError, ValueError):
        return 0


_PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_numbers(weights: Mapping[str, Tensor], source: str) -> None:
    """Refuses weights that are not finite numbers: their texts would be nonsense without a warning."""
    for name, value in weights.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in _PRECISIONS:
            kind = str(value.dtype).removeprefix("torch.")
            layout = "" if value.layout == torch.strided else f"{value.layout} ".removeprefix("torch.")
            raise UserError(f"{source}: {name} holds {layout}{kind}, and weights are real numbers; copy the file again")
        if value.numel():
            low, high = torch.aminmax(value.detach())  # NaN if one is
            if not (low.isfinite() and high.isfinite()):
                raise UserError(
                    f"{source}: {name} holds numbers that are not finite (NaN or infinity): it is damaged, or its training "
                    "failed; take an earlier one"
                )


def check_fits(weights: dict[str, Tensor], own: dict[str, Tensor], source: str) -> None:
    """Raises a ValueError that names the option where sizes or names differ."""
    missing = sorted(own.keys() - weights.keys())
    extra = sorted(weights.keys() - own.keys())
    if missing or extra:
        parts = [
            f"{what} {names[0]} and {len(names) - 1} more" if len(names) > 1 else f"{what} {names[0]}"
            for what, names in (("lacks", missing), ("has unknown", extra))
            if names
        ]
        raise UserError(
            f"{source}: does not fit this model: {'; '.join(parts)}; "
            "check --arch, --encoder-layers, --decoder-layers and the --share-* options"
        )
    for name, value in own.items():
        if value.shape != weights[name].shape:
            side = name.split(".")[0]
            hint = next((hint for end, hint in _SIZE_OPTIONS.items() if name.endswith(end)), "--{side}-embed-dim")
            hint = hint.format(side={"encoder": "source", "decoder": "target"}[side] if "position" in name else side)
            raise UserError(f"{source}: {name} is {tuple(weights[name].shape)} there and {tuple(value.shape)} here; check {hint}")
