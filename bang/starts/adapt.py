"""Fits a start to the model: its layers, lengths and vocabulary."""

import logging

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..text.vocabulary import PASSAGE_SEPARATOR, UNCASED, Normalization, fingerprint
from .files import OPTION, SLOT, Start

logger = logging.getLogger(__name__)

REMEDY = "binarize the data with its vocabulary: fairseq-preprocess --srcdict vocab.txt --tgtdict vocab.txt"
SIDES = ("encoder", "decoder")
UNSHAPED = ("encoder_attention_heads", "decoder_attention_heads", "activation_fn")
"""Options that no weight's shape shows: with a wrong value the model silently computes something else."""


def weights_for(
    start: Start,
    cfg,
    own: dict[str, Tensor],
    pieces: dict[str, list[str]],
    load_sep: bool = False,
    data: str = "the model",
    normalization: Normalization = UNCASED,
) -> dict[str, Tensor]:
    """The start's weights as the model's own: load them strictly, after `upgrade_state_dict` for old names.

    Args:
        start: what was read.
        cfg: the model's options.
        own: the model's own weights, whose position tables give the lengths.
        pieces: word pieces of the encoder's and the decoder's dictionary.
        load_sep: copy the embedding of [SEP] over that of [X_SEP].
        data: what to call that whose dictionary it is.
        normalization: of the dictionary's text.
    Raises:
        ValueError: a size, the vocabulary or an option does not agree; one line that names the option to set.
    """
    _check_sizes(start, cfg)
    chosen = _choose_pieces(start, pieces)
    _check_dictionary(start, pieces, data, normalization)
    weights = {**start.weights, **chosen}
    for side in SIDES:
        weights = _choose_layers(weights, side, _layers_to_take(start, cfg, side))
        name = f"{side}.embed_positions.weight"
        if name in weights:
            # the published rule turns every row; what never had an embedding for pads keeps row 0 out of it
            first = 0 if start.family == "bang" else 1
            weights[name] = torch.cat([weights[name][:first], _fit(weights[name][first:], len(own[name]) - first)])
    if start.family != "bang":
        _fill_in(weights, own, pieces["decoder"])
    weights[SLOT] = weights[SLOT][-1:]  # with two vectors, ProphetNet's, stream 0's is the last
    if load_sep:
        for side in SIDES:
            table = weights[f"{side}.embed_tokens.weight"].clone()
            if PASSAGE_SEPARATOR not in pieces[side]:
                raise UserError(f"--load-sep: the dictionary has no {PASSAGE_SEPARATOR}; binarize with --srcdict vocab.txt")
            table[pieces[side].index(PASSAGE_SEPARATOR)] = table[pieces[side].index("[SEP]")]
            weights[f"{side}.embed_tokens.weight"] = table
    return weights


def spread(wanted: int, available: int) -> list[int]:
    """`wanted` layers of `available`, evenly spread, the first and the last among them."""
    return np.linspace(0, available - 1, wanted).round().astype(int).tolist()


def _fit(table: Tensor, length: int) -> Tensor:
    """Cuts (L, D) to `length` rows, or extends it by its rows with columns rotated left by 1, 2, ..."""
    parts = [table.roll(-turn, dims=1) for turn in range(-(-length // len(table)))]
    return torch.cat(parts)[:length]


def _layers_to_take(start: Start, cfg, side: str) -> list[int]:
    wanted, available = getattr(cfg, f"{side}_layers"), start.layers[side]
    option, named = f"--pretrained-{side}-layers", getattr(cfg, f"pretrained_{side}_layers", None)
    if named:
        try:
            layers = [int(number) for number in named.split(",")]
        except ValueError:
            raise UserError(f"{option} {named}: give numbers with commas between them, from 0") from None
        if len(layers) != wanted or not all(0 <= layer < available for layer in layers):
            raise UserError(
                f"{option} {named}: name {wanted} layers (--{side}-layers) of {start.path}, which has 0 to {available - 1}"
            )
        return layers
    if wanted > available:
        raise UserError(
            f"{OPTION} {start.path}: has {available} {side} layers for this model's {wanted}; "
            f"set --{side}-layers {available} or fewer, or name layers, also twice, with {option}"
        )
    layers = spread(wanted, available)
    if wanted < available:
        logger.info("the %s starts from layers %s of %d", side, ", ".join(map(str, layers)), available)
    return layers


def _choose_layers(weights: dict[str, Tensor], side: str, layers: list[int]) -> dict[str, Tensor]:
    prefix = f"{side}.layers."
    chosen = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    for new, old in enumerate(layers):
        for name, value in weights.items():
            if name.startswith(f"{prefix}{old}."):
                chosen[f"{prefix}{new}." + name.removeprefix(f"{prefix}{old}.")] = value
    return chosen


def _fill_in(weights: dict[str, Tensor], own: dict[str, Tensor], pieces: list[str]) -> None:
    """What weights of another family lack by nature: the relative term is zero, the output the embedding, the slot [MASK]'s."""
    for name in own.keys() - weights.keys():
        if name.endswith(".version"):
            weights[name] = own[name]
        elif "relative_linear" in name:
            weights[name] = torch.zeros_like(own[name])
        elif name == "decoder.embed_out":
            weights[name] = weights["decoder.embed_tokens.weight"]
        elif name == SLOT:
            weights[name] = weights["decoder.embed_tokens.weight"][pieces.index("[MASK]"), None]


def _check_sizes(start: Start, cfg) -> None:
    differing = [name for name, size in start.sizes.items() if size != getattr(cfg, name)]
    if differing:
        needed = " ".join(f"--{name.replace('_', '-')} {start.sizes[name]}" for name in differing)
        here = ", ".join(str(getattr(cfg, name)) for name in differing)
        raise UserError(f"{OPTION} {start.path}: needs {needed} (here {here})")
    untold = [name for name in UNSHAPED if name not in start.sizes]
    if untold:
        logger.warning(
            "%s %s: weights alone do not say %s; taken as %s%s", OPTION, start.path,
            ", ".join(f"--{name.replace('_', '-')}" for name in untold), ", ".join(str(getattr(cfg, name)) for name in untold),
            "" if start.family == "bang" else "; its config.json beside it settles them",
        )  # fmt: skip


def _check_count(start: Start, own: int, rows: int, wanted: int) -> None:
    """Whether the start's vocabulary can be that of its table, whose last rows may be padding, of no piece.

    Args:
        own: pieces of the start. rows: of the table.
        wanted: pieces of the dictionary; where they are as many as rows, none is padding.
    """
    if own > rows or own < rows == wanted:
        raise UserError(
            f"{OPTION} {start.path}: its vocabulary file has {own} word pieces, its table of embeddings {rows} "
            "rows; take both whole from where they come"
        )


def _check_dictionary(start: Start, pieces: dict[str, list[str]], data: str, normalization: Normalization) -> None:
    """Refuses a checkpoint of ours that was trained with as many other pieces; [X_SEP] may be BERT's [unused1] there."""
    sides = [pieces[side] for side in SIDES]
    as_bert = [["[unused1]" if piece == PASSAGE_SEPARATOR else piece for piece in side] for side in sides]
    if start.fingerprint not in (None, *(fingerprint(both[0], both[1], normalization) for both in (sides, as_bert))):
        raise UserError(f"{OPTION} {start.path}: trained with another dictionary than that of {data}; {REMEDY}")


def _choose_pieces(start: Start, pieces: dict[str, list[str]]) -> dict[str, Tensor]:
    """The rows of the start's tables that a smaller vocabulary takes; nothing where the vocabularies are one.

    Raises:
        ValueError: the dictionary has a piece that the start lacks; or the sizes differ and the start
            does not come with its vocabulary.
    """
    chosen = {}
    for side in SIDES:
        names = [f"{side}.embed_tokens.weight"] + (["decoder.embed_out"] if side == "decoder" else [])
        tables = {name: start.weights[name] for name in names if name in start.weights}
        sizes = {len(table) for table in tables.values()}
        if start.pieces is not None and sizes:
            _check_count(start, len(start.pieces), min(sizes), len(pieces[side]))
        if sizes <= {len(pieces[side])}:
            for number, (theirs, ours) in enumerate(zip(start.pieces or (), pieces[side])):
                if theirs != ours and ours != PASSAGE_SEPARATOR:
                    raise UserError(
                        f"{OPTION} {start.path}: word piece {number} is {theirs!r} there and {ours!r} in the {side}'s "
                        f"dictionary; {REMEDY}"
                    )
        elif start.pieces is None:
            raise UserError(
                f"{OPTION} {start.path}: has {max(sizes)} word pieces, the {side}'s dictionary {len(pieces[side])}; {REMEDY}"
            )
        else:
            row_of = {piece: row for row, piece in enumerate(start.pieces)}
            if PASSAGE_SEPARATOR in pieces[side]:
                row_of.setdefault(PASSAGE_SEPARATOR, pieces[side].index(PASSAGE_SEPARATOR))  # a row that BERT has no use for
            missing = [piece for piece in pieces[side] if piece not in row_of]
            if missing:
                raise UserError(
                    f"{OPTION} {start.path}: lacks {len(missing)} word pieces of the {side}'s dictionary, as "
                    f"{missing[0]!r}; {REMEDY}"
                )
            rows = torch.tensor([row_of[piece] for piece in pieces[side]])
            chosen.update({name: table[rows] for name, table in tables.items()})
    return chosen
