"""Opens a page on this machine: type text, choose modes, and see the texts, which pass wrote each word, and the time.

    bang demo model

Needs gradio, which the extra "demo" brings.
"""

import argparse
import importlib.util
import os

from ..errors import UserError
from ..packages import install_command
from ._options import add_model_arguments, load

HELP = "a local web page that shows the modes side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port to serve at (default: %(default)s)")
    parser.add_argument("--text", default="", help="text to begin with (default: an example)")


def run(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise UserError(f"the page needs gradio, which is not installed: {install_command('gradio', 'demo')}")
    print(f"loading {args.model} …", flush=True)
    model = load(args)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing leaves this machine
    from starlette.middleware import Middleware

    from ..inference.demo import serve
    from ..serving.guard import LocalOnly, is_loopback

    # other sites' pages must not reach it through this machine's browser
    guard = [Middleware(LocalOnly)] if is_loopback(args.host) else []
    serve(model, args.host, args.port, args.text, middleware=guard)
