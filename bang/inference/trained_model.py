"""A trained model without what training alone needs, read from a checkpoint or a model folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor

from .. import plugin  # noqa: F401  (plugin: registers the architectures)
from ..decoding.link import Link, find_link
from ..errors import UserError, damaged
from ..network.model import BangModel
from ..plugin.dictionary import BertDictionary
from ..plugin.task import BangTranslationConfig, BangTranslationTask
from ..safety import checkpoints
from ..safety.description import check_weights_fit
from ..safety.folder import CONFIG, MODEL, VOCABULARY, WEIGHTS, check_vocabulary, read_config
from ..safety.tensors import read_safetensors
from ..text.casing import Casing, find_casing
from ..text.files import StrPath
from ..text.vocabulary import VOCAB
from ..trained_modes import Blocks, trained_blocks, trained_modes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_TRAINING_ONLY = (
    "load_from_pretrained_model", "pretrained_encoder_layers", "pretrained_decoder_layers", "freeze_encoder_layers", "load_sep",
)  # fmt: skip
_OF_FILES = ("weights", "dictionary", "link", "casing", "source")
"""What of `TrainedModel` a folder keeps in files of its own, and not in config.json."""
ENCODER_TABLE, DECODER_TABLE = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"


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
        generation: defaults of `options.Options`, where they are not its own.
        link: of NAR and semi-NAR; None: it has none.
        casing: gives texts capitals; None: it has none.
        source: the file or folder, for messages.
    """

    architecture: str
    sizes: dict[str, Any]
    weights: dict[str, Tensor]
    dictionary: BertDictionary
    criterion: dict[str, Any]
    updates: int
    languages: Sequence[str | None] = (None, None)
    generation: dict[str, Any] = field(default_factory=dict)
    link: Link | None = None
    casing: Casing | None = None
    source: str = "the model"

    @property
    def shares(self) -> dict[str, float]:
        """How much of the training each mode had; empty where unknown."""
        return trained_modes(self._run)

    @property
    def blocks(self) -> Blocks | None:
        """The blocks that it was trained with; None where unknown."""
        return trained_blocks(self._run)

    @property
    def _run(self) -> dict[str, Any]:
        """The options of the training, as a checkpoint has them."""
        return {"model": {"_name": self.architecture, **self.sizes}, "criterion": self.criterion}

    def build(self) -> BangModel:
        """The network, in evaluation mode, float32, on the CPU.

        Raises:
            ValueError: the weights do not fit the sizes.
        """
        options = MODEL_DATACLASS_REGISTRY[self.architecture](**self.sizes)
        options._name = self.architecture
        network = self.task().build_model(OmegaConf.structured(options), from_checkpoint=True)
        weights = dict(self.weights)
        network.upgrade_state_dict(weights)
        checkpoints.check_fits(weights, network.state_dict(), self.source)
        network.load_state_dict(weights)
        return network.eval()

    def task(self, **options) -> BangTranslationTask:
        """A task without data, for its generators."""
        limits = {name: self.sizes[name] for name in ("max_source_positions", "max_target_positions")}
        cfg = BangTranslationConfig(data="", **limits, **options)
        for interpolated in ("checkpoint_paths", "restore_file", "save_dir", "log_format"):
            setattr(cfg, interpolated, None)
        cfg.skip_invalid_size_inputs_valid_test = False
        return BangTranslationTask(cfg, self.dictionary, self.dictionary)


def read_checkpoint(
    path: StrPath, vocab: StrPath | None = None, link: StrPath | None = None, casing: StrPath | None = None
) -> TrainedModel:
    """Reads a checkpoint of fairseq-train.

    Args:
        vocab: its vocabulary, a `dict.src.txt` or `vocab.txt`; None: a dict.*.txt beside the
            checkpoint, or the published vocab.txt.
        link: see `find_link`; None: link.bin beside the checkpoint.
        casing: see `find_casing`; None: casing.tsv beside the checkpoint.

    Raises:
        FileNotFoundError, ValueError: one line.
    """
    with damaged(f"checkpoint {path}"):
        return _read_checkpoint(path, vocab, link, casing)


def _read_checkpoint(path: StrPath, vocab: StrPath | None, link: StrPath | None, casing: StrPath | None) -> TrainedModel:
    checkpoints.check(os.fspath(path))
    state = checkpoint_utils.load_checkpoint_to_cpu(os.fspath(path))
    cfg, weights = state["cfg"], state["model"]
    name = cfg.model._name
    if not issubclass(MODEL_REGISTRY.get(name, object), BangModel):
        raise UserError(f"checkpoint {path}: its model is {name}, not one of BANG's")
    options = MODEL_DATACLASS_REGISTRY[name]
    sizes = {option: getattr(cfg.model, option, getattr(options, option)) for option in size_options(name)}
    if sizes["share_all_embeddings"]:
        sizes["share_decoder_input_output_embed"] = True
    criterion: Any = OmegaConf.to_container(cfg.criterion, resolve=True) if cfg.criterion is not None else {}
    dictionary = _vocabulary_of(path, state, vocab)
    return TrainedModel(
        architecture=name,
        sizes=sizes,
        weights=weights,
        dictionary=dictionary,
        criterion={key: value for key, value in criterion.items() if isinstance(value, (str, int, float, type(None)))},
        updates=state["optimizer_history"][-1]["num_updates"],
        languages=[cfg.task.get("source_lang"), cfg.task.get("target_lang")],
        link=find_link(Path(path).parent, dictionary.symbols, link),
        casing=find_casing(Path(path).parent, casing),
        source=f"checkpoint {path}",
    )


def size_options(architecture: str) -> list[str]:
    """Names of the options that make the network what it is."""
    names = [option.name for option in fields(MODEL_DATACLASS_REGISTRY[architecture])]
    return [name for name in names if name not in _TRAINING_ONLY and not name.startswith("_")]


def _vocabulary_of(path: StrPath, state: Mapping[str, Any], vocab: StrPath | None) -> BertDictionary:
    beside = sorted(Path(path).parent.glob("dict.*.txt"))
    source = vocab or (beside[0] if beside else VOCAB)
    dictionary = BertDictionary.load(source)
    remedy = "give the vocabulary that its data was binarized with (dict.src.txt in the data folder) with --vocab, vocab="
    rows = [len(state["model"][name]) for name in (ENCODER_TABLE, DECODER_TABLE)]
    if rows[0] != rows[1]:
        raise UserError(f"checkpoint {path}: trained with two vocabularies, of {rows[0]} and {rows[1]} pieces; one is needed")
    saved = (state.get("task_state") or {}).get("dictionaries")
    ours = BangTranslationTask(BangTranslationConfig(left_pad_target=False), dictionary, dictionary)._fingerprint()
    if rows[0] != len(dictionary) or (saved is not None and saved != ours):
        raise UserError(f"checkpoint {path}: has {rows[0]} word pieces, not those of {source}, {len(dictionary)}; {remedy}")
    return dictionary


def read_model(
    path: StrPath, vocab: StrPath | None = None, link: StrPath | None = None, casing: StrPath | None = None
) -> TrainedModel:
    """Reads a folder of `bang pack` or a checkpoint.

    Args:
        vocab: a checkpoint's vocabulary, see `read_checkpoint`.
        link, casing: see `find_link` and `find_casing`.

    Raises:
        FileNotFoundError, ValueError: one line.
    """
    if not os.path.isdir(path):
        return read_checkpoint(path, vocab, link, casing)
    if vocab is not None:
        raise UserError(f"{path}: brings its own vocabulary; give no other")
    return read_folder(path, link, casing)


def read_folder(folder: StrPath, link: StrPath | None = None, casing: StrPath | None = None) -> TrainedModel:
    """Reads a model folder.

    Args:
        link, casing: see `find_link` and `find_casing`.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged; one line.
    """
    with damaged(folder):
        return _read_folder(folder, link, casing)


def _read_folder(folder: StrPath, link: StrPath | None, casing: StrPath | None) -> TrainedModel:
    config = read_config(folder, MODEL)
    if not issubclass(MODEL_REGISTRY.get(config["architecture"], object), BangModel):
        raise UserError(f"{folder}: its architecture is {config['architecture']!r}, not one of BANG's")
    differing = sorted(config["sizes"].keys() ^ set(size_options(config["architecture"])))
    if differing:
        raise UserError(
            f"{Path(folder, CONFIG)}: its sizes differ from this version's in {', '.join(differing)}; pack the checkpoint again"
        )
    weights = read_safetensors(Path(folder, WEIGHTS))
    if config["sizes"]["share_all_embeddings"] and DECODER_TABLE in weights:
        weights[ENCODER_TABLE] = weights[DECODER_TABLE]
    dictionary = BertDictionary.load(Path(folder, VOCABULARY))
    check_weights_fit(config["sizes"], weights, str(Path(folder, CONFIG)))
    checkpoints.check_numbers(weights, str(Path(folder, WEIGHTS)))
    for table in (ENCODER_TABLE, DECODER_TABLE):
        check_vocabulary(folder, len(dictionary), len(weights[table]))
    from_config = [option.name for option in fields(TrainedModel) if option.name not in _OF_FILES]
    return TrainedModel(
        weights=weights,
        dictionary=dictionary,
        link=find_link(folder, dictionary.symbols, link),
        casing=find_casing(folder, casing),
        source=str(folder),
        **{name: config[name] for name in from_config},
    )
