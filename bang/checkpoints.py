"""Checkpoints: what may be loaded, and whether it fits."""

import argparse
import collections
import os
import re
import zipfile
from typing import Dict

import numpy as np
import omegaconf
import torch
from fairseq.logging import meters
from torch import Tensor

_SIZE_OPTIONS = {
    "embed_positions.weight": "--max-{side}-positions",
    "embed_tokens.weight": "--{side}-embed-dim, or the dictionary: the data may be binarized with another one",
    "fc1.weight": "--{side}-ffn-embed-dim",
    "relative_linear.weight": "--num-buckets or --decoder-attention-heads",
}


def allow_fairseq_classes() -> None:
    """Lets torch's weights-only loader read what fairseq 0.9 to 0.12 put into checkpoints.

    These classes hold settings and averages; none runs code when it is restored. Whatever else a
    file names is refused by torch before anything of it runs.
    """
    names = ("AverageMeter", "SumMeter", "TimeMeter", "StopwatchMeter", "MetersDict")
    allowed = [getattr(meters, name) for name in names]
    # fairseq 0.9 had the meters one module higher
    allowed += [(getattr(meters, name), f"fairseq.meters.{name}") for name in names if name != "MetersDict"]
    allowed += [
        argparse.Namespace,
        collections.OrderedDict,
        collections.defaultdict,
        omegaconf.DictConfig,
        omegaconf.ListConfig,
        omegaconf.base.ContainerMetadata,
        omegaconf.base.Metadata,
        omegaconf.nodes.AnyNode,
        omegaconf.nodes.StringNode,
        omegaconf.nodes.IntegerNode,
        omegaconf.nodes.FloatNode,
        omegaconf.nodes.BooleanNode,
    ]
    # meters of BLEU hold numpy arrays, which numpy restores from bytes
    rebuild, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    for function in (rebuild, scalar):
        allowed += [(function, f"numpy.{core}.multiarray.{function.__name__}") for core in ("core", "_core")]
    allowed += [np.ndarray, np.dtype] + [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")]
    torch.serialization.add_safe_globals(allowed)


def read(path: str) -> dict:
    """Reads a checkpoint file onto the CPU, weights only.

    Raises:
        ValueError: it is missing, truncated, not a checkpoint, or holds more than data. One line.
    """
    if not os.path.isfile(path):
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        # a memory map reads no weight that is not asked for; files of torch < 1.6 cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise ValueError(
                f"checkpoint {path}: refused, it holds {refused[1]}, which is no weight or setting; nothing of it was run"
            ) from None
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"checkpoint {path}: cannot be read; truncated, or no fairseq checkpoint ({reason})") from None
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint {path}: holds a {type(state).__name__}, not a fairseq checkpoint")
    return state


def check(path: str) -> dict:
    """Reads a checkpoint that fairseq is about to load, so that a bad one gets one clear line."""
    state = read(path)
    if "model" not in state or not (state.get("args") or state.get("cfg")):
        raise ValueError(f"checkpoint {path}: no fairseq checkpoint, it lacks 'model' or the training options")
    return state


def check_fits(weights: Dict[str, Tensor], own: Dict[str, Tensor], source: str) -> None:
    """Raises a ValueError that names the option where sizes or names differ."""
    missing = sorted(own.keys() - weights.keys())
    extra = sorted(weights.keys() - own.keys())
    if missing or extra:
        parts = [f"{what} {names[0]} and {len(names) - 1} more" if len(names) > 1 else f"{what} {names[0]}"
                 for what, names in (("lacks", missing), ("has unknown", extra)) if names]
        raise ValueError(
            f"{source}: does not fit this model: {'; '.join(parts)}; "
            "check --arch, --encoder-layers, --decoder-layers and the --share-* options"
        )
    for name, value in own.items():
        if value.shape != weights[name].shape:
            side = name.split(".")[0]
            hint = next((hint for end, hint in _SIZE_OPTIONS.items() if name.endswith(end)), "--{side}-embed-dim")
            hint = hint.format(side={"encoder": "source", "decoder": "target"}[side] if "position" in name else side)
            raise ValueError(
                f"{source}: {name} is {tuple(weights[name].shape)} there and {tuple(value.shape)} here; check {hint}"
            )
