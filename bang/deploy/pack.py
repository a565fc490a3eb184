"""A trained model written to a model folder or back to a checkpoint; also the mean of a run's last checkpoints.

A model folder holds config.json (architecture, sizes, trained modes, generation defaults), model.safetensors
(weights under fairseq's names; embeddings that are shared once), vocab.txt and a card, README.md.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from safetensors.torch import save_file

from ..decoding.link import LINK_FILE, NO_LINK
from ..errors import UserError
from ..inference.trained_model import DTYPES, ENCODER_TABLE, TrainedModel, read_checkpoint, size_options
from ..network.model import BangModel
from ..options import Options
from ..plugin.task import BangTranslationConfig
from ..safety import checkpoints
from ..safety.folder import CARD, CONFIG, MODEL, VERSIONS, VOCABULARY, WEIGHTS, checksums
from ..safety.settings import FRESH
from ..text.casing import CASING_FILE, NO_CASING
from ..text.files import StrPath, new_folder, replacing
from ..text.vocabulary import vocabulary_files
from ..trained_modes import best_trained, update_shares

logger = logging.getLogger(__name__)


def read_average(
    paths: Sequence[StrPath], vocab: StrPath | None = None, link: StrPath | None = None, casing: StrPath | None = None
) -> TrainedModel:
    """Reads several checkpoints of one run, or of runs that go on from one another, into one model of the mean weights.

    What is no weight is the last one's.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`; also where they do not agree in sizes or vocabulary.
    """
    last = read_checkpoint(paths[-1], vocab, link, casing)
    sums = {name: value.double() for name, value in last.weights.items()}
    for path in paths[:-1]:
        model = read_checkpoint(path, vocab, NO_LINK, NO_CASING)
        _check_mean(model, last, path, paths[-1])
        for name, value in model.weights.items():
            sums[name] += value.double()
    weights = {name: (value / len(paths)).to(last.weights[name].dtype) for name, value in sums.items()}
    return replace(last, weights=weights)


_OF_TRAINING = ("dropout", "attention_dropout", "activation_dropout", "ngram")
"""Among the network's options those that leave the meaning of its weights as it is."""


def _check_mean(model: TrainedModel, last: TrainedModel, path: StrPath, last_path: StrPath) -> None:
    """Refuses two models whose weights have no common meaning."""
    differing = [name for name, size in model.sizes.items() if size != last.sizes[name] and name not in _OF_TRAINING]
    if differing:
        found = ", ".join(f"--{name.replace('_', '-')} {model.sizes[name]} (here {last.sizes[name]})" for name in differing)
        raise UserError(f"checkpoint {path}: cannot be averaged with {last_path}, it has {found}; average checkpoints of one run")
    if model.dictionary != last.dictionary:
        raise UserError(f"checkpoint {path}: cannot be averaged with {last_path}, it was trained with another dictionary")


def last_checkpoints(folder: StrPath, count: int) -> list[Path]:
    """The last checkpoints of a run by their numbers of updates, in order.

    Raises:
        ValueError: it is no folder, or there are fewer than `count`.
    """
    if not os.path.isdir(folder):
        is_there = "is a file" if os.path.exists(folder) else "no such folder"
        raise UserError(f"{folder}: {is_there}; --last {count} averages checkpoints of a run, give the folder that holds them")
    by_updates = {}
    for path in sorted(Path(folder).glob("checkpoint*.pt")):
        updates = checkpoints.check(os.fspath(path))["optimizer_history"][-1].get("num_updates")
        if updates:
            by_updates[updates] = path
        else:
            logger.warning("%s: does not say how many updates it has seen; left out", path)
    if len(by_updates) < count:
        raise UserError(f"{folder}: checkpoints of {len(by_updates)} different updates, {count} are to be averaged")
    return [path for _, path in sorted(by_updates.items())[-count:]]


class FolderFormat(NamedTuple):
    """A kind of folder.

    Attributes:
        fill: writes the files but the card: (model, its network, folder, dtype).
        usage: (name, default mode) to what the card says of how to load it.
        head: of the card.
    """

    fill: Callable[[TrainedModel, BangModel, Path, str], None]
    usage: Callable[[str, str], str]
    head: str = ""


def _fill(model: TrainedModel, network: BangModel, folder: Path, dtype: str) -> None:
    weights = {name: value.to(DTYPES[dtype]).contiguous() for name, value in network.state_dict().items()}
    for name in _shared(model.sizes):
        del weights[name]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    files = [WEIGHTS, *save_beside(model, folder)]
    sizes: Any = OmegaConf.to_container(network.cfg, enum_to_str=True)  # those that go without saying too
    config = {
        "format": MODEL,
        "version": VERSIONS[MODEL],
        "architecture": model.architecture,
        "sizes": {name: sizes[name] for name in size_options(model.architecture)},
        "modes": model.shares,
        "generation": model.generation,
        "criterion": model.criterion,
        "updates": model.updates,
        "languages": model.languages,
        "files": files,
    }
    config["sha256"] = checksums(folder, files, config)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _usage(name: str, mode: str) -> str:
    return f"""```python
from bang import Bang

model = Bang.load("{name}")
model.generate(["some text"], mode="{mode}")
```

`bang generate {name} < texts`, `bang export {name} FOLDER` and `bang unpack {name} checkpoint.pt` (back to fairseq)
take it too."""


OURS = FolderFormat(_fill, _usage)


def write_folder(
    model: TrainedModel,
    folder: StrPath,
    dtype: str = "float32",
    generation: Mapping[str, Any] | None = None,
    source: Sequence[StrPath] = (),
    form: FolderFormat = OURS,
) -> None:
    """Writes a model folder, whole or not at all.

    Args:
        folder: to be made; must not exist, or be empty.
        dtype: of the weights.
        generation: defaults of `Options`.
        source: the checkpoints that the card names.
        form: of the folder.

    Raises:
        ValueError: the folder holds something, a size is not that of the weights, or a default is none.
    """
    name = Path(folder).name
    model, network, mode = _with_defaults(model, generation)
    with new_folder(folder) as new:
        form.fill(model, network, new, dtype)
        (new / CARD).write_text(form.head + _card(model, name, dtype, source, form.usage(name, mode)), encoding="utf-8")
        for path in new.iterdir():
            os.chmod(path, (new / CARD).stat().st_mode)  # safetensors makes its file unreadable for other users


def _with_defaults(model: TrainedModel, generation: Mapping[str, Any] | None) -> tuple[TrainedModel, BangModel, str]:
    """A model with further defaults of generation, its network and its default mode.

    Raises:
        ValueError: a size is not that of the weights, or a default is none.
    """
    model = replace(model, generation={**model.generation, **(generation or {})})
    options = Options(**model.generation)  # refuses what is none
    is_lower = model.dictionary.normalization.do_lower_case
    if not is_lower and (options.case == "source" or model.casing is not None):
        raise UserError("--targets, --casing, --case source: this model's vocabulary has capitals of its own; leave them out")
    network = model.build()  # checks that the weights fit, names of older checkpoints turned into today's
    mode = model.generation.get("mode") or best_trained(model.shares, network.decodes)
    if mode not in network.decodes:
        raise UserError(f"mode {mode!r}: this model has {', '.join(network.decodes)}")
    return model, network, mode


def save_beside(model: TrainedModel, folder: Path) -> list[str]:
    """Writes what goes with the weights, in every kind of folder; returns the names of the files."""
    model.dictionary.save(folder / VOCABULARY)
    files = [Path(path).name for path in vocabulary_files(folder / VOCABULARY)]
    for name, table in ((LINK_FILE, model.link), (CASING_FILE, model.casing)):
        if table is not None:
            table.save(folder / name)
            files.append(name)
    return files


def _shared(sizes: Mapping[str, Any]) -> list[str]:
    """Names of the weights that are others' by --share-*."""
    return [ENCODER_TABLE] if sizes["share_all_embeddings"] else []


def write_checkpoint(model: TrainedModel, path: StrPath) -> None:
    """Writes a checkpoint that fairseq-generate --path, --restore-file and the like take; without optimizer state.

    Weights keep their precision, and embeddings that are shared are stored once. They stand in the network's order:
    fairseq's script that averages checkpoints compares it.
    """
    cfg = OmegaConf.structured(FairseqConfig)
    limits = {name: model.sizes[name] for name in ("max_source_positions", "max_target_positions")}
    languages: dict[str, Any] = dict(zip(("source_lang", "target_lang"), model.languages))
    cfg.task = OmegaConf.structured(BangTranslationConfig(data="", **limits, **languages))
    cfg.task._name = "translation_bang"
    cfg.model = {"_name": model.architecture, **model.sizes}
    cfg.criterion = model.criterion
    cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)  # as fairseq saves it
    history = {**FRESH["optimizer_history"][0], "num_updates": model.updates}
    state = {
        "args": None,
        "cfg": cfg,
        "model": {name: model.weights[name] for name in model.build().state_dict()},
        "optimizer_history": [history],
        "task_state": {"dictionaries": model.task()._fingerprint()},
        "extra_state": FRESH["extra_state"],
    }
    with replacing(path) as file:
        torch.save(state, file)


def _card(model: TrainedModel, name: str, dtype: str, source: Sequence[StrPath], usage: str) -> str:
    """The card of a folder, a page of Markdown.

    Args:
        name: of the folder. dtype: of its weights.
        source: the checkpoints that it was made from.
        usage: how to load it.
    """
    sizes, shares = model.sizes, model.shares
    widths = " + ".join(
        map(str, dict.fromkeys([sizes["encoder_embed_dim"], sizes["decoder_embed_dim"]]))
    )  # one if they are equal
    parameters = sum(value.numel() for key, value in model.weights.items() if key not in _shared(sizes))
    trained = ", ".join(f"{mode} ({share:.0%} of the updates)" for mode, share in shares.items()) or "not recorded"
    weights = update_shares(model._run)
    if model.criterion.get("joint_modes") and len(weights) > 1:
        weighed = ", ".join(f"{mode} {weights[mode]:.0%}" for mode in shares if mode in weights)
        trained = f"{', '.join(shares)}: all in every update, the losses weighed {weighed}"
    origin = ", ".join(Path(path).name for path in source) or "not recorded"
    if len(source) > 1:
        origin = f"the mean of {origin}"
    lower = model.dictionary.normalization.do_lower_case
    capitals = "the vocabulary's" if not lower else "none" if model.casing is None else "the source's and the training targets'"
    defaults = ", ".join(f"{key} {value}" for key, value in model.generation.items()) or "bang's own"
    return f"""# {name}

A BANG model: source text in, target text out; autoregressively, in blocks or in a single pass.

| | |
| --- | --- |
| architecture | `{model.architecture}`: {sizes["encoder_layers"]} + {sizes["decoder_layers"]} layers, width {widths} |
| parameters | {parameters / 1e6:.1f} million, {dtype} |
| longest source, target | {sizes["max_source_positions"]}, {sizes["max_target_positions"]} word pieces |
| vocabulary | {len(model.dictionary):,} {"lower-cased" if lower else "cased"} word pieces |
| trained modes | {trained} |
| updates | {model.updates:,} |
| generation defaults | {defaults} |
| link | {"none" if model.link is None else f"order {model.link.order}, the default of NAR and semi-NAR"} |
| capitals | {capitals} |
| made from | {origin} |

{usage} What it was trained on, and what it is good for, is for its maker to write here.
"""
