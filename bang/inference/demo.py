"""A local page that shows a text in several modes side by side, and which pass of the decoder wrote each word."""

import html
import importlib.util
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..modes import AR, MODES
from ..options import Options
from ..text.cleanup import dropped
from . import drawing
from .api import Bang, Generation

EXAMPLES = (
    "This package contains a collection of Perl modules which read and write the headers of FITS images.",
    "A header-only dbus-binding leveraging C++-11. It generates the adaptors and proxies at compile time.",
    "djangorestframework-gis extends the Django REST Framework to also handle geographic data as used by GeoDjango during "
    "serialization and deserialization.",
    "Fast and flexible estimators for survival analysis, with plots of their curves and tests of their assumptions.",
)
"""Texts to begin with, of the kind that the shipped model writes summaries of."""

_LONGEST_DRAWING = 16  # tokens

_STYLE = """<style>
.bang table {width: 100%; border-collapse: collapse}
.bang th, .bang td {text-align: left; vertical-align: top; padding: .6em .8em; border-bottom: 1px solid #ddd}
.bang td.number {text-align: right; white-space: nowrap}
.bang .words span {padding: .1em .15em; border-radius: .25em; color: #111; line-height: 2}
.bang .words sub {font-size: .6em; color: #444}
.bang .words .dropped {text-decoration: line-through; opacity: .55}
.bang .words .unsure {border-bottom: 2px dotted #b00}
.bang .text {margin-top: .4em; opacity: .8}
.bang .pair {display: grid; grid-template-columns: 1fr 1fr; gap: 1em}
.bang .pair h4 {margin: 0; font-size: .8em; opacity: .7}
.bang .hint {border-left: 4px solid #e8a33d; padding: .4em .8em; margin-bottom: .6em}
</style>"""

_UNSURE = -1.0  # log-probability below which a piece is marked

_ENGLISH = frozenset(
    "a an and are as at be by can for from has have in into is it its not of on or that the this to used use using which with "
    "will you your".split()
)


class Shown(NamedTuple):
    """What a mode wrote.

    Attributes:
        mode: its name.
        generation: the text.
        milliseconds: that it took.
        without: the text without the link, where both are asked for; None: one text.
    """

    mode: str
    generation: Generation
    milliseconds: float
    without: Generation | None = None


def page(model: Bang, example: str = "") -> gr.Blocks:
    """The page.

    Args:
        model: whose modes can be chosen.
        example: text to begin with; empty: the first of `EXAMPLES`.
    """
    trained = [mode for mode in model.modes if mode in (model.engine.shares or model.modes)]
    choices = [(_title(mode), mode) for mode in model.modes]
    can_draw = importlib.util.find_spec("matplotlib") is not None

    def show(text: str, modes: list[str], block_size: int, beam: int, both: bool) -> str:
        options = dict(block_size=int(block_size), draft_length=int(block_size), beam=int(beam))
        return render(compare(model, text, modes, both=both, **options), hint(model, text))

    def draw(modes: list[str], length: int, block_size: int) -> str:
        return "".join(drawing.svg(mode, int(length), int(block_size)) for mode in modes)

    with gr.Blocks(title="bang", analytics_enabled=False) as blocks:
        gr.Markdown(
            "# bang\nOne model, several ways to write. A colour is a pass of the decoder, its number stands below each piece. "
            "Dotted: the model was unsure; struck out: a repeat that the clean-up dropped. Point at a piece for its probability."
        )
        text = gr.Textbox(example or EXAMPLES[0], label="Text", lines=4, elem_id="source")
        gr.Examples([[one] for one in EXAMPLES], [text], label="Examples", elem_id="examples")
        with gr.Row():
            modes = gr.CheckboxGroup(choices, value=trained, label="Modes", elem_id="modes")
            block_size = gr.Slider(1, 16, value=model.defaults.block_size, step=1, label="Tokens at once (semi-NAR, speculative)")
            beam = gr.Slider(1, 8, value=1, step=1, label="Beam (AR)")
            both = gr.Checkbox(False, label="With and without the link", visible=model.engine.link is not None, elem_id="both")
        button = gr.Button("Generate", variant="primary", elem_id="generate")
        output = gr.HTML("", elem_id="output")
        gr.on([button.click, text.submit], show, [text, modes, block_size, beam, both], output, api_name="generate")
        if can_draw:
            with gr.Accordion("What each prediction sees", open=False):
                length = gr.Slider(2, _LONGEST_DRAWING, value=8, step=1, label="Tokens of the text")
                picture = gr.HTML("", elem_id="sees")
            inputs = [modes, length, block_size]
            gr.on([blocks.load, modes.change, length.change, block_size.change], draw, inputs, picture, api_name="draw")
    return blocks


def compare(model: Bang, text: str, modes: list[str], both: bool = False, **options) -> list[Shown]:
    """Generates in each mode, one after the other. A beam is AR's alone.

    Args:
        both: where a link may choose the text, generate without it too.
    """
    found = []
    for mode in modes:
        of_mode = {name: value for name, value in options.items() if mode in MODES and name in MODES[mode].options}
        start = time.perf_counter()
        try:
            generation = model.generate(text, mode, details=True, truncate=True, **of_mode)
            milliseconds = 1000 * (time.perf_counter() - start)
            without = None
            if both and model.engine.link is not None and MODES[mode].may_link(Options(mode=mode, **of_mode)):
                without = model.generate(text, mode, details=True, truncate=True, link=False, **of_mode)
        except ValueError as error:
            raise gr.Error(str(error)) from None
        found.append(Shown(mode, generation, milliseconds, without))
    return found


def hint(model: Bang, text: str) -> str:
    """A hint for a text that the model's vocabulary was not made for; empty: none.

    A text is taken for English if its letters are Latin ones and, where it has ten words, one of them is among the
    commonest.
    """
    if "the" not in model.pieces:  # not an English vocabulary
        return ""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    words = re.findall(r"[^\W\d_]+", text.lower())
    if foreign > 0.1 * len(letters) or len(words) >= 10 and not _ENGLISH & set(words):
        return "This looks like text that is not English, which the vocabulary was made for: expect poor texts."
    return ""


def render(found: list[Shown], hint: str = "") -> str:
    """HTML of what `compare` gives; what comes from a model or a user is escaped."""
    slowest = max((shown.milliseconds for shown in found), default=0.0)
    base = next((shown for shown in found if shown.mode == AR), None)
    than, milliseconds = (_title(AR), base.milliseconds) if base is not None else ("the slowest", slowest)
    rows = []
    for mode, generation, took, without in found:
        passes = generation.passes[-1] if generation.passes else 0
        cut = " (source cut)" if generation.truncated else ""
        text = _text(mode, generation)
        if without is not None:
            text = f'<div class="pair"><div><h4>with the link</h4>{text}</div><div class="without"><h4>without</h4>'
            text += f"{_text(mode, without)}</div></div>"
        rows.append(
            f'<tr data-mode="{html.escape(mode)}"><th>{html.escape(_title(mode))}{cut}</th><td>{text}</td>'
            f'<td class="number score">{generation.score:.2f}</td><td class="number passes">{passes}</td>'
            f'<td class="number ms">{took:.0f}</td><td class="number factor">{milliseconds / max(took, 1e-3):.1f} ×</td></tr>'
        )
    names = ("mode", "word pieces by the pass that wrote them; the text", "score a piece", "passes", "ms", f"speed of {than}")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    shown_hint = f'<div class="hint">{html.escape(hint)}</div>' if hint else ""
    return f'{_STYLE}<div class="bang">{shown_hint}<table>{head}{"".join(rows)}</table></div>'


def _title(mode: str) -> str:
    return MODES[mode].title if mode in MODES else mode


def _text(mode: str, generation: Generation) -> str:
    text = html.escape(generation.text)
    return f'<div class="words">{_words(mode, generation)}</div><div class="text">{text}</div>'


def _words(mode: str, generation: Generation) -> str:
    """The word pieces, those of a word next to each other."""
    words = ""
    drops = mode in MODES and MODES[mode].drops_repeats
    is_dropped = dropped(generation.pieces) if drops else [False] * len(generation.pieces)
    scores = [*generation.piece_scores, *[0.0] * len(generation.pieces)]
    for piece, number, score, gone in zip(generation.pieces, generation.passes, scores, is_dropped):
        joins, shown = piece.startswith("##"), html.escape(piece.removeprefix("##"))
        hue = number * 137 % 360  # the golden angle: passes that follow each other differ
        kinds = " ".join(name for name, holds in (("dropped", gone), ("unsure", score < _UNSURE)) if holds)
        words += f'{"" if joins else " "}<span class="{kinds}" title="log-probability {score:.2f}" '
        words += f'style="background: hsl({hue}, 75%, 85%)">{shown}<sub>{number}</sub></span>'
    return words.strip()


_MOST_BYTES = 1 << 20  # of a request: far more than a text that a model takes


class SmallRequests:
    """ASGI middleware that takes no files, which the page has no use for, and no bodies over a limit."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            headers = Headers(scope=scope)
            length = headers.get("content-length", "")
            if "multipart" in headers.get("content-type", "") or "upload" in scope["path"]:
                return await PlainTextResponse("this page takes no files", 403)(scope, receive, send)
            if not length.isdecimal() or len(length) > 9 or int(length) > _MOST_BYTES:  # uvicorn reads no more than it says
                return await PlainTextResponse("too long, or of no length", 413)(scope, receive, send)
        await self.app(scope, receive, send)


def serve(
    model: Bang, host: str, port: int | None, example: str = "", wait: bool = True, middleware: Sequence[Middleware] = ()
) -> str:
    """Serves the page.

    Args:
        port: None: a free one.
        middleware: what requests go through before they come to the page, beside `SmallRequests`.
        wait: until it is interrupted; else it returns while a thread serves.
    Returns:
        The page's address.
    """
    for mode in model.modes:  # the first user's milliseconds are then everyone's
        model.generate("one text ahead", mode, beam=1, max_len=5, min_len=1)
    blocks = page(model, example)
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no font from elsewhere
    _, address, _ = blocks.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, theme=theme, footer_links=[],
        app_kwargs={"middleware": [*middleware, Middleware(SmallRequests)]},
    )  # fmt: skip
    if wait:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        blocks.block_thread()
    return address
