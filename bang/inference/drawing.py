"""Draws what each slot of a layout sees: as text, and as a picture."""

import functools
import io
import textwrap
from typing import IO, NamedTuple

import numpy as np

from .. import modes, visibility
from ..errors import UserError
from ..options import Options, check_number
from ..visibility import Layout

MOST = 64
"""Longest text that is drawn."""

_TOKEN, _SLOT, _HIDDEN = "██", "▒▒", " ·"
_TOKEN_COLOUR, _SLOT_COLOUR, _HIDDEN_COLOUR = "#2b5c8a", "#e8a33d", "#f1f1f1"
_CELL = 0.22  # inches


class Row(NamedTuple):
    """What one slot sees.

    Attributes:
        target: index of the token that it predicts, from 0.
        stream: its index in its block, from 0.
        tokens: which real tokens it sees, the start symbol first, bool (T).
        slots: which slots it sees, by the token that they predict, bool (T).
    """

    target: int
    stream: int
    tokens: np.ndarray
    slots: np.ndarray


class Drawing(NamedTuple):
    """What all slots of a layout see, in the order of the tokens that they predict; in n-stream stream by stream."""

    title: str
    rows: list[Row]


def of_mode(name: str, length: int, block_size: int = visibility.BLOCK_SIZE) -> Drawing:
    """What the slots of a mode see where a text of `length` tokens, its end among them, is scored or trained.

    Raises:
        ValueError: no such mode, or a number that does not serve.
    """
    mode, (length, block_size) = modes.find(name), _checked(length=length, block_size=block_size)
    blocks = f", blocks of {block_size}" if mode.block_option == "block_size" else ""
    options = Options(mode=name, block_size=block_size)
    return Drawing(f"{mode.title}{blocks}: a slot sees {mode.sees}", _rows(mode.layout(length, options, 0), length))


def of_streams(ngram: int, length: int) -> Drawing:
    """What the slots of n-stream pretraining see."""
    ngram, length = _checked(ngram=ngram, length=length)
    title = f"{ngram}-stream: stream i sees all tokens up to i before its own, and the slots from there on"
    return Drawing(title, _rows(visibility.streams(length, ngram), length))


def _checked(**numbers: int) -> tuple[int, ...]:
    for name, value in numbers.items():
        check_number(name, value, 1, MOST)
    return tuple(numbers.values())


def _rows(layout: Layout, length: int) -> list[Row]:
    block, index = visibility.places((layout.block_size,) * layout.groups)
    target = layout.target.reshape(-1)
    tokens = visibility.sees_main(np.repeat(layout.anchor, layout.block_size), np.arange(length))  # (slots, T)
    own_block = visibility.sees_slot(block, index, block, index)  # (slots, slots)
    rows = []
    for slot in np.lexsort((target, index if layout.stride == 1 else 0 * index)):
        if target[slot] < length:
            seen = np.isin(np.arange(length), target[own_block[slot]])
            rows.append(Row(int(target[slot]), int(index[slot]), tokens[slot], seen))
    return rows


def as_text(drawing: Drawing) -> str:
    """The drawing in characters: a line for each slot, a column for each real token and for each slot that it may see."""
    length, several = len(drawing.rows[0].slots), _is_streams(drawing)
    names = [f"{row.target + 1}" + (f", stream {row.stream}" if several else "") for row in drawing.rows]
    margin = max(map(len, [*names, "predicts"])) + 2
    heads = " ".join(["<s>", *(f"{number:3d}" for number in range(1, length))])
    lines = [drawing.title, "", f"{'predicts':{margin}}{'tokens':{len(heads)}}    slots"]
    lines.append(" " * margin + heads + "    " + " ".join(f"{number:3d}" for number in range(1, 1 + length)))
    for name, row in zip(names, drawing.rows):
        cells = " ".join(f" {_TOKEN if seen else _HIDDEN}" for seen in row.tokens)
        lines.append(f"{name:{margin}}{cells}    " + " ".join(f" {_SLOT if seen else _HIDDEN}" for seen in row.slots))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _is_streams(drawing: Drawing) -> bool:
    targets = [row.target for row in drawing.rows]
    return len(set(targets)) < len(targets)


def draw(drawings: list[Drawing], file: IO[bytes] | str, kind: str = "png") -> None:
    """The same as a picture, side by side.

    Args:
        kind: png, svg or pdf.
    """
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    colours = ListedColormap([_HIDDEN_COLOUR, _TOKEN_COLOUR, _SLOT_COLOUR])
    width = sum(2 * len(drawing.rows[0].slots) + 3 for drawing in drawings) * _CELL
    height = (max(len(drawing.rows) for drawing in drawings) + 5) * _CELL
    with matplotlib.rc_context({"svg.hashsalt": "bang"}):
        figure = Figure(figsize=(max(width, 4 * len(drawings)), height), layout="constrained")
        for drawing, axes in zip(drawings, figure.subplots(1, len(drawings), squeeze=False)[0]):
            length = len(drawing.rows[0].slots)
            cells = np.array([[*row.tokens, 0, *(2 * row.slots)] for row in drawing.rows])
            cells = np.ma.masked_array(cells, np.broadcast_to(np.arange(2 * length + 1) == length, cells.shape))
            axes.pcolormesh(cells, cmap=colours, vmin=0, vmax=2, edgecolors="white", linewidth=1)
            names = ["<s>", *range(1, length), "", *range(1, 1 + length)]
            axes.set_xticks(np.arange(len(names)) + 0.5, map(str, names), fontsize=6)
            axes.set_yticks(np.arange(len(cells)) + 0.5, [str(row.target + 1) for row in drawing.rows], fontsize=6)
            axes.invert_yaxis()
            axes.tick_params(length=0)
            axes.set_aspect("equal")
            axes.spines[:].set_visible(False)
            for name, middle in (("tokens", length / 2), ("slots", 1.5 * length + 1)):
                axes.text(middle, len(cells) + 1.4, name, fontsize=8, ha="center")
            axes.set_ylabel("predicts", fontsize=8)
            axes.set_title(textwrap.fill(drawing.title, 58), fontsize=8, loc="left")
        figure.savefig(file, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)


@functools.lru_cache(maxsize=64)
def svg(mode: str, length: int, block_size: int) -> str:
    """The picture of a mode for a page."""
    file = io.BytesIO()
    draw([of_mode(mode, length, block_size)], file, "svg")
    text = file.getvalue().decode()
    return text[text.index("<svg") :]


def picture_kind(path: str) -> str:
    """The kind of picture that a file's name asks for.

    Raises:
        ValueError: another one.
    """
    kind = path.rpartition(".")[2].lower()
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"{path}: give a file that ends in .png, .svg or .pdf")
    return kind
