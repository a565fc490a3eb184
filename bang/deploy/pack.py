"""A trained model without what training alone needs: read from checkpoints and model folders, written to both.

A model folder holds config.json (architecture, sizes, trained modes, generation defaults), model.safetensors
(weights under fairseq's names; embeddings that are shared once), vocab.txt and a card, README.md.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import checkpoints, plugin  # noqa: F401  (plugin: registers the architectures)
from ..inference.api import Options
from ..dictionary import BertDictionary
from ..inference.folder import CARD, CONFIG, MODEL, VERSIONS, VOCABULARY, WEIGHTS, read_config
from ..network.model import BangModel
from ..task import BangTranslationConfig, BangTranslationTask
from ..text.files import StrPath, new_folder, replacing
from ..text.vocabulary import VOCAB
from ..trained_modes import trained_modes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_TRAINING_ONLY = ("load_from_pretrained_model", "pretrained_encoder_layers", "pretrained_decoder_layers", "load_sep")
_ENCODER_TABLE, _DECODER_TABLE, _OUTPUT = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.embed_out"


@dataclass(frozen=True)
class TrainedModel:
    """All that inference needs.

    Attributes:
        architecture: a name that `--arch` takes.
        sizes: the network's options (`BangConfig`).
        weights: under fairseq's names.
        dictionary: of sources and targets alike.
        criterion: options of the training criterion, which say what modes were trained.
        updates: how many the weights have seen.
        languages: file endings of the training pairs' sources and targets.
        generation: defaults of `api.Options`, where they are not its own.
    """

    architecture: str
    sizes: dict[str, Any]
    weights: dict[str, Tensor]
    dictionary: BertDictionary
    criterion: dict[str, Any]
    updates: int
    languages: Sequence[str | None] = (None, None)
    generation: dict[str, Any] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """How much of the training each mode had; empty where nobody knows."""
        return trained_modes({"model": {"_name": self.architecture, **self.sizes}, "criterion": self.criterion})

    def build(self) -> BangModel:
        """The network, in evaluation mode, float32, on the CPU.

        Raises:
            ValueError: the weights do not fit the sizes.
        """
        options = MODEL_DATACLASS_REGISTRY[self.architecture](**self.sizes)
        options._name = self.architecture
        network = self.task().build_model(OmegaConf.structured(options), from_checkpoint=True)
        network.load_state_dict(dict(self.weights))
        return network.eval()

    def task(self, **options) -> BangTranslationTask:
        """A task without data, for its generators."""
        limits = {name: self.sizes[name] for name in ("max_source_positions", "max_target_positions")}
        cfg = BangTranslationConfig(data="", **limits, **options)
        for interpolated in ("checkpoint_paths", "restore_file", "save_dir", "log_format"):
            setattr(cfg, interpolated, None)
        cfg.skip_invalid_size_inputs_valid_test = False
        return BangTranslationTask(cfg, self.dictionary, self.dictionary)


def read_checkpoint(path: StrPath, vocab: StrPath | None = None) -> TrainedModel:
    """Reads a checkpoint of fairseq-train.

    Args:
        vocab: its vocabulary, a `dict.src.txt` or `vocab.txt`; None: a dict.*.txt beside the
            checkpoint, or the published vocab.txt.

    Raises:
        FileNotFoundError, ValueError: one line.
    """
    checkpoints.check(os.fspath(path))
    state = checkpoint_utils.load_checkpoint_to_cpu(os.fspath(path))
    cfg, weights = state["cfg"], state["model"]
    name = cfg.model._name
    if not issubclass(MODEL_REGISTRY.get(name, object), BangModel):
        raise ValueError(f"checkpoint {path}: its model is {name}, not one of BANG's")
    options = MODEL_DATACLASS_REGISTRY[name]
    sizes = {option: getattr(cfg.model, option, getattr(options, option)) for option in _size_options(name)}
    if sizes["share_all_embeddings"]:
        sizes["share_decoder_input_output_embed"] = True
    criterion = OmegaConf.to_container(cfg.criterion, resolve=True) if cfg.criterion is not None else {}
    return TrainedModel(
        architecture=name,
        sizes=sizes,
        weights=weights,
        dictionary=_vocabulary_of(path, state, vocab),
        criterion={key: value for key, value in criterion.items() if isinstance(value, (str, int, float, type(None)))},
        updates=state["optimizer_history"][-1]["num_updates"],
        languages=[cfg.task.get("source_lang"), cfg.task.get("target_lang")],
    )


def _size_options(architecture: str) -> list[str]:
    names = [option.name for option in fields(MODEL_DATACLASS_REGISTRY[architecture])]
    return [name for name in names if name not in _TRAINING_ONLY and not name.startswith("_")]


def _vocabulary_of(path: StrPath, state: Mapping[str, Any], vocab: StrPath | None) -> BertDictionary:
    beside = sorted(Path(path).parent.glob("dict.*.txt"))
    source = vocab or (beside[0] if beside else VOCAB)
    dictionary = BertDictionary.load(source)
    remedy = "give the vocabulary that its data was binarized with (dict.src.txt in the data folder) with --vocab, vocab="
    rows = [len(state["model"][name]) for name in (_ENCODER_TABLE, _DECODER_TABLE)]
    if rows[0] != rows[1]:
        raise ValueError(f"checkpoint {path}: trained with two vocabularies, of {rows[0]} and {rows[1]} pieces; one is needed")
    saved = (state.get("task_state") or {}).get("dictionaries")
    ours = BangTranslationTask(BangTranslationConfig(left_pad_target=False), dictionary, dictionary)._fingerprint()
    if rows[0] != len(dictionary) or (saved is not None and saved != ours):
        raise ValueError(f"checkpoint {path}: has {rows[0]} word pieces, not those of {source}, {len(dictionary)}; {remedy}")
    return dictionary


def read_model(path: StrPath, vocab: StrPath | None = None) -> TrainedModel:
    """Reads a folder of `bang pack` or a checkpoint.

    Args:
        vocab: a checkpoint's vocabulary, see `read_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: one line.
    """
    if not os.path.isdir(path):
        return read_checkpoint(path, vocab)
    if vocab is not None:
        raise ValueError(f"{path}: brings its own vocabulary; give no other")
    return read_folder(path)


def read_average(paths: Sequence[StrPath], vocab: StrPath | None = None) -> TrainedModel:
    """Reads several checkpoints of one run into one model of the mean weights.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`; also where they do not agree in sizes.
    """
    last = read_checkpoint(paths[-1], vocab)
    sums = {name: value.double() for name, value in last.weights.items()}
    for path in paths[:-1]:
        model = read_checkpoint(path, vocab)
        if (model.architecture, model.sizes) != (last.architecture, last.sizes):
            raise ValueError(f"checkpoint {path}: of another size than {paths[-1]}; average checkpoints of one run")
        for name, value in model.weights.items():
            sums[name] += value.double()
    weights = {name: (value / len(paths)).to(last.weights[name].dtype) for name, value in sums.items()}
    return replace(last, weights=weights)


def last_checkpoints(folder: StrPath, count: int) -> list[Path]:
    """The last checkpoints of a run by their numbers of updates, in order.

    Raises:
        ValueError: there are fewer than `count`.
    """
    by_updates = {}
    for path in sorted(Path(folder).glob("checkpoint*.pt")):
        by_updates[checkpoints.check(os.fspath(path))["optimizer_history"][-1]["num_updates"]] = path
    if len(by_updates) < count:
        raise ValueError(f"{folder}: checkpoints of {len(by_updates)} different updates, {count} are to be averaged")
    return [path for _, path in sorted(by_updates.items())[-count:]]


def write_folder(
    model: TrainedModel,
    folder: StrPath,
    dtype: str = "float32",
    generation: Mapping[str, Any] | None = None,
    source: Sequence[StrPath] = (),
) -> None:
    """Writes a model folder, whole or not at all.

    Args:
        folder: to be made; must not exist, or be empty.
        dtype: of the weights.
        generation: defaults of `api.Options`.
        source: the checkpoints that the card names.

    Raises:
        ValueError: the folder holds something, a size is not that of the weights, or a default is none.
    """
    model = replace(model, generation={**model.generation, **(generation or {})})
    Options(**model.generation)  # refuses what is none
    network = model.build()  # checks that the weights fit, names of older checkpoints turned into today's
    mode = model.generation.get("mode", network.decodes[0])
    if mode not in network.decodes:
        raise ValueError(f"mode {mode!r}: this model has {', '.join(network.decodes)}")
    weights = {name: value.to(DTYPES[dtype]).contiguous() for name, value in network.state_dict().items()}
    for name in _shared(model.sizes):
        del weights[name]
    sizes = OmegaConf.to_container(network.cfg, enum_to_str=True)  # those that go without saying too
    config = {
        "format": MODEL,
        "version": VERSIONS[MODEL],
        "architecture": model.architecture,
        "sizes": {name: sizes[name] for name in _size_options(model.architecture)},
        "modes": model.shares,
        "generation": model.generation,
        "criterion": model.criterion,
        "updates": model.updates,
        "languages": model.languages,
        "files": [WEIGHTS, VOCABULARY],
    }
    with new_folder(folder) as new:
        save_file(weights, new / WEIGHTS, metadata={"format": "pt"})
        model.dictionary.save(new / VOCABULARY)
        os.chmod(new / WEIGHTS, (new / VOCABULARY).stat().st_mode)  # safetensors keeps it from other users
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (new / CARD).write_text(_card(model, Path(folder).name, dtype, source), encoding="utf-8")


def _shared(sizes: Mapping[str, Any]) -> list[str]:
    """Names of the weights that are others' by --share-*."""
    return [_ENCODER_TABLE] if sizes["share_all_embeddings"] else []


def read_folder(folder: StrPath) -> TrainedModel:
    """Reads a model folder.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged; one line.
    """
    config = read_config(folder, MODEL)
    needed = ("architecture", "sizes", "criterion", "updates", "languages", "generation")
    missing = [name for name in needed if name not in config]
    if missing:
        raise ValueError(f"{Path(folder, CONFIG)}: lacks {', '.join(missing)}; pack the checkpoint again")
    if not issubclass(MODEL_REGISTRY.get(config["architecture"], object), BangModel):
        raise ValueError(f"{folder}: its architecture is {config['architecture']!r}, not one of BANG's")
    differing = sorted(config["sizes"].keys() ^ set(_size_options(config["architecture"])))
    if differing:
        raise ValueError(
            f"{Path(folder, CONFIG)}: its sizes differ from this version's in {', '.join(differing)}; pack the checkpoint again"
        )
    try:
        weights = load_file(Path(folder, WEIGHTS))
    except SafetensorError as error:
        raise ValueError(f"{Path(folder, WEIGHTS)}: cannot be read; truncated, or no safetensors file ({error})") from None
    if config["sizes"]["share_all_embeddings"] and _DECODER_TABLE in weights:
        weights[_ENCODER_TABLE] = weights[_DECODER_TABLE]
    return TrainedModel(
        weights=weights,
        dictionary=BertDictionary.load(Path(folder, VOCABULARY)),
        **{name: config[name] for name in needed},
    )


def write_checkpoint(model: TrainedModel, path: StrPath) -> None:
    """Writes a checkpoint that fairseq-generate --path, --restore-file and the like take; without optimizer state.

    Weights keep their precision, and embeddings that are shared are stored once.
    """
    cfg = OmegaConf.structured(FairseqConfig)
    limits = {name: model.sizes[name] for name in ("max_source_positions", "max_target_positions")}
    languages = dict(zip(("source_lang", "target_lang"), model.languages))
    cfg.task = OmegaConf.structured(BangTranslationConfig(data="", **limits, **languages))
    cfg.task._name = "translation_bang"
    cfg.model = {"_name": model.architecture, **model.sizes}
    cfg.criterion = model.criterion
    cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)  # as fairseq saves it
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": model.updates}
    state = {
        "args": None,
        "cfg": cfg,
        "model": dict(model.weights),
        "optimizer_history": [history],
        "task_state": {"dictionaries": model.task()._fingerprint()},
        "extra_state": {"metrics": [], "previous_training_time": 0},
    }
    with replacing(path) as file:
        torch.save(state, file)


def _card(model: TrainedModel, name: str, dtype: str, source: Sequence[StrPath]) -> str:
    sizes, shares = model.sizes, model.shares
    parameters = sum(value.numel() for key, value in model.weights.items() if key not in _shared(sizes))
    trained = ", ".join(f"{mode} ({share:.0%} of the updates)" for mode, share in shares.items()) or "not recorded"
    best = model.generation.get("mode") or max(shares, key=shares.get, default="ar")
    origin = ", ".join(Path(path).name for path in source) or "not recorded"
    if len(source) > 1:
        origin = f"the mean of {origin}"
    defaults = ", ".join(f"{key} {value}" for key, value in model.generation.items()) or "bang's own"
    return f"""# {name}

A BANG model: source text in, target text out; autoregressively, in blocks or in a single pass.

| | |
| --- | --- |
| architecture | `{model.architecture}`: {sizes["encoder_layers"]} + {sizes["decoder_layers"]} layers, width {sizes["encoder_embed_dim"]} |
| parameters | {parameters / 1e6:.1f} million, {dtype} |
| longest source, target | {sizes["max_source_positions"]}, {sizes["max_target_positions"]} word pieces |
| vocabulary | {len(model.dictionary):,} lower-cased word pieces |
| trained modes | {trained} |
| updates | {model.updates:,} |
| generation defaults | {defaults} |
| made from | {origin} |

```python
from bang import Bang

model = Bang.load("{name}")
model.generate(["some text"], mode="{best}")
```

`bang generate {name} < texts`, `bang export {name} FOLDER` and `bang unpack {name} checkpoint.pt` (back to fairseq)
take it too. What it was trained on, and what it is good for, is for its maker to write here.
"""
