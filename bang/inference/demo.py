"""A local page that shows a text in several modes side by side, and which pass of the decoder wrote each word."""

import html
import time
from collections.abc import Sequence

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..modes import MODES
from .api import Bang, Generation

_STYLE = """<style>
.bang table {width: 100%; border-collapse: collapse}
.bang th, .bang td {text-align: left; vertical-align: top; padding: .6em .8em; border-bottom: 1px solid #ddd}
.bang td.number {text-align: right; white-space: nowrap}
.bang .words span {padding: .1em .15em; border-radius: .25em; color: #111; line-height: 2}
.bang .words sub {font-size: .6em; color: #444}
.bang .text {margin-top: .4em; opacity: .8}
</style>"""


def page(model: Bang, example: str = "") -> gr.Blocks:
    """The page.

    Args:
        model: whose modes can be chosen.
        example: text to begin with.
    """
    trained = [mode for mode in model.modes if mode in (model.engine.shares or model.modes)]
    choices = [(_title(mode), mode) for mode in model.modes]

    def show(text: str, modes: list[str], block_size: int, beam: int) -> str:
        options = dict(block_size=int(block_size), draft_length=int(block_size), beam=int(beam))
        return render(compare(model, text, modes, **options))

    with gr.Blocks(title="bang", analytics_enabled=False) as blocks:
        gr.Markdown("# bang\nOne model, several ways to write: a colour is a pass of the decoder, its number below each piece.")
        text = gr.Textbox(example, label="Text", lines=4, elem_id="source")
        with gr.Row():
            modes = gr.CheckboxGroup(choices, value=trained, label="Modes", elem_id="modes")
            block_size = gr.Slider(1, 16, value=model.defaults.block_size, step=1, label="Tokens at once (semi-NAR, speculative)")
            beam = gr.Slider(1, 8, value=1, step=1, label="Beam (AR)")
        button = gr.Button("Generate", variant="primary", elem_id="generate")
        output = gr.HTML(elem_id="output")
        gr.on([button.click, text.submit], show, [text, modes, block_size, beam], output)
    return blocks


def compare(model: Bang, text: str, modes: list[str], **options) -> list[tuple[str, Generation, float]]:
    """Generates in each mode, one after the other.

    Returns:
        Mode, what was generated, and milliseconds that it took. A beam is AR's alone.
    """
    found = []
    for mode in modes:
        start = time.perf_counter()
        try:
            of_mode = {name: value for name, value in options.items() if mode in MODES and name in MODES[mode].options}
            generation = model.generate(text, mode, details=True, truncate=True, **of_mode)
        except ValueError as error:
            raise gr.Error(str(error)) from None
        found.append((mode, generation, 1000 * (time.perf_counter() - start)))
    return found


def render(found: list[tuple[str, Generation, float]]) -> str:
    """HTML of what `compare` gives; what comes from a model or a user is escaped."""
    rows = []
    for mode, generation, milliseconds in found:
        passes = generation.passes[-1] + 1 if generation.passes else 0
        cut = " (source cut)" if generation.truncated else ""
        rows.append(
            f'<tr data-mode="{html.escape(mode)}"><th>{html.escape(_title(mode))}{cut}</th>'
            f'<td><div class="words">{_words(generation)}</div><div class="text">{html.escape(generation.text)}</div></td>'
            f'<td class="number">{passes}</td><td class="number">{milliseconds:.0f}</td></tr>'
        )
    head = "<tr><th>mode</th><th>word pieces by the pass that wrote them; the text</th><th>passes</th><th>ms</th></tr>"
    return f'{_STYLE}<div class="bang"><table>{head}{"".join(rows)}</table></div>'


def _title(mode: str) -> str:
    return MODES[mode].title if mode in MODES else mode


def _words(generation: Generation) -> str:
    """The word pieces, those of a word next to each other."""
    words = ""
    for piece, number in zip(generation.pieces, generation.passes):
        joins, shown = piece.startswith("##"), html.escape(piece.removeprefix("##"))
        hue = number * 137 % 360  # the golden angle: passes that follow each other differ
        words += f'{"" if joins else " "}<span style="background: hsl({hue}, 75%, 85%)">{shown}<sub>{number + 1}</sub></span>'
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


def serve(model: Bang, host: str, port: int, example: str = "", wait: bool = True, middleware: Sequence[Middleware] = ()) -> str:
    """Serves the page.

    Args:
        middleware: what requests go through before they come to the page, beside `SmallRequests`.
        wait: until it is interrupted; else it returns while a thread serves.
    Returns:
        The page's address.
    """
    for mode in model.modes:
        model.generate(
            "one text ahead", mode, beam=1, max_len=5, min_len=1
        )  # so that the first user's milliseconds are everyone's
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
