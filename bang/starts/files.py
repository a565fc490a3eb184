"""Reads a start: our checkpoint, or BERT's or ProphetNet's weights in the Hugging Face layout."""

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import UserError, damaged
from ..safety import checkpoints
from ..safety.description import check_options, layers_of, read_description, widths_of
from ..safety.folder import MODEL, read_pieces
from ..safety.settings import check_start
from ..safety.tensors import read_safetensors
from ..text.files import read_lines
from ..text.vocabulary import TOKENIZER_FILE, Normalization, read_normalization
from . import bert, names, prophetnet

OPTION = "--load-from-pretrained-model"
SLOT = "decoder.ngram_input_embed.weight"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
VOCABULARY_FILES = ("vocab.txt", "prophetnet.tokenizer")
FAMILIES = {"bert": bert, "prophetnet": prophetnet}


class Start(NamedTuple):
    """Weights from elsewhere, under our names and at their own sizes."""

    path: str
    family: str  # bang (and ProphetNet's fairseq files, which have the same names), bert, prophetnet
    weights: dict[str, Tensor]
    sizes: dict[str, Any]  # by the option that has to agree, as far as the files say: {"encoder_embed_dim": 384, …}
    layers: dict[str, int]  # how many there are to choose from: {"encoder": 6, "decoder": 6}
    pieces: list[str] | None  # the vocabulary, where the files have it
    fingerprint: str | None = None  # of the dictionaries that a checkpoint of ours was trained with
    normalization: Normalization | None = None  # of its text, where the files say it


def read(path: str) -> Start:
    """Reads a start, weights only.

    Args:
        path: a fairseq checkpoint, a bare state dict, a `.safetensors` file, a folder of `bang pack`, or one with
            `config.json` and `model.safetensors` or a `pytorch_model.bin`. A `config.json` beside a file of weights
            counts too.
    Raises:
        ValueError: missing, truncated, of another kind, or more than data. One line.
    """
    with damaged(f"{OPTION} {path}"):
        return _read(path)


def _read(path: str) -> Start:
    source = f"{OPTION} {path}"
    folder, file = _locate(path)
    config = _read_config(folder)
    fingerprint = None
    if file.endswith(".safetensors"):
        saved, settings = read_safetensors(file, f"{OPTION} {file}"), {}
    else:
        state = checkpoints.read(file, mmap=True, checksums=True)
        check_start(state, source)
        saved, settings, task_state = state.get("model", state), _settings(state), state.get("task_state")
        fingerprint = task_state.get("dictionaries") if isinstance(task_state, dict) else None
    if not isinstance(saved, dict) or not all(isinstance(part, Tensor) and isinstance(name, str) for name, part in saved.items()):
        raise UserError(f"{source}: no weights by name in it")
    # numbers of positions are counted, and of no use here
    checkpoints.check_numbers({name: part for name, part in saved.items() if not name.endswith(".position_ids")}, source)
    if SLOT in saved:
        family, weights = "bang", dict(saved)
        if config.get("format") == MODEL:  # of bang pack, which leaves shared tables out
            settings = _by_name(config.get("sizes"))
            if "decoder.embed_tokens.weight" in weights:
                weights.setdefault("encoder.embed_tokens.weight", weights["decoder.embed_tokens.weight"])
        settings = {name: settings[name] for name in _CHECKED if settings.get(name) is not None}
    else:
        family = _family(path, saved, config)
        weights = FAMILIES[family].translate(saved, path)
        settings = FAMILIES[family].settings(config, path) if config else {}
    sizes = {**widths_of(weights), **settings}
    _check_tables(weights, path)
    _check_heads(sizes, path)
    check_options(settings, source)
    layers, pieces = layers_of(weights, source), _read_pieces(folder, config)
    return Start(path, family, weights, sizes, layers, pieces, fingerprint, _normalization(folder))


_CHECKED = (
    "encoder_attention_heads", "decoder_attention_heads", "activation_fn", "num_buckets", "relative_max_distance",
)  # fmt: skip
"""Options that change what weights mean and not their shapes."""


def _locate(path: str) -> tuple[str | None, str]:
    """The folder whose `config.json` and vocabulary count, if any, and the file of weights."""
    if not os.path.isdir(path):
        beside = path.endswith(".safetensors") or os.path.basename(path) in WEIGHT_FILES
        if not os.path.isfile(path):
            raise UserError(f"{OPTION} {path}: no such file or folder")
        return (os.path.dirname(path) or "." if beside else None), path
    for wanted in (("config.json",), WEIGHT_FILES):
        found = [file for name in wanted if os.path.isfile(file := os.path.join(path, name))]
        if not found:
            raise UserError(
                f"{OPTION} {path}: no {' or '.join(wanted)} in this folder; give a checkpoint file, a folder of the "
                "Hugging Face layout, or one of bang pack"
            )
    return path, found[0]


def _read_config(folder: str | None) -> dict:
    file = os.path.join(folder or "", "config.json")
    if folder is None or not os.path.isfile(file):
        return {}
    try:
        return read_description(file)
    except UserError as error:
        raise UserError(f"{OPTION} {error}") from None


def _family(path: str, saved: dict, config: dict) -> str:
    family = next((name for name, module in FAMILIES.items() if module.recognises(saved)), None)
    kind = config.get("model_type", family)
    if family is None or kind != family:
        found = f"its config.json says model_type {kind}" if kind != family else f"it lacks {SLOT}"
        raise UserError(
            f"{OPTION} {path}: neither a BANG or ProphetNet checkpoint nor a BERT: {found}; "
            "starts are fairseq checkpoints of BANG and ProphetNet, and weights of model_type bert or prophetnet"
        )
    return family


def _settings(state: dict) -> dict:
    """The options that a fairseq checkpoint was trained with; {} in a bare state dict."""
    if state.get("cfg"):
        return _by_name(_by_name(state["cfg"]).get("model"))
    return _by_name(state.get("args"))


def _by_name(settings: Any) -> dict[str, Any]:
    """Settings, a dict or a Namespace; {} of what is neither."""
    settings = vars(settings) if isinstance(settings, Namespace) else settings
    return dict(settings) if isinstance(settings, Mapping) else {}


def _check_tables(weights: dict[str, Tensor], path: str) -> None:
    """Checks what `adapt` cuts and extends before the model's own sizes are known."""
    for name, value in weights.items():
        if name == SLOT or name.endswith(("embed_tokens.weight", "embed_out")):
            names.check_table(name, value, path)
        elif name.endswith("embed_positions.weight"):
            names.check_table(name, value, path, 2)  # of which one is for pads


def _check_heads(sizes: dict[str, Any], path: str) -> None:
    for side in ("encoder", "decoder"):
        heads, width = sizes.get(f"{side}_attention_heads"), sizes.get(f"{side}_embed_dim", 0)
        if heads is not None and (not isinstance(heads, int) or heads < 1 or width % heads):
            raise UserError(
                f"{OPTION} {path}: its settings give the {side} {heads!r} attention heads, and a whole number is wanted that "
                f"divides its width of {width}; mend its config.json, or take it anew from where it comes"
            )


def _normalization(folder: str | None) -> Normalization | None:
    file = os.path.join(folder or "", TOKENIZER_FILE)
    return read_normalization(file) if folder is not None and os.path.isfile(file) else None


def _read_pieces(folder: str | None, config: dict) -> list[str] | None:
    if folder is None:
        return None
    if config.get("format") == MODEL:
        return read_pieces(folder)
    for name in VOCABULARY_FILES:
        file = os.path.join(folder, name)
        if os.path.isfile(file):
            return [line.rstrip("\r") for line in read_lines(file)]
    return None
