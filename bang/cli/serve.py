"""Serves a model over HTTP, until Ctrl-C or SIGTERM; accepted requests are still answered then.

    bang serve model --port 8000
    curl --json '{"texts": "A header-only dbus-binding.", "mode": "nar"}' http://127.0.0.1:8000/generate

POST /generate takes the arguments of `Bang.generate` as JSON: "texts" (one, or a list), "mode", options. It gives `Generation`s.
Requests that arrive together are decoded together. /docs describes it, /health says that it is ready, /metrics is for
Prometheus. It answers this machine only, unless --host says otherwise.

Needs starlette, uvicorn and prometheus-client, which the extra "serve" brings.
"""

import argparse
import importlib.util

from ..errors import UserError
from ..options import check_number
from ..packages import install_command
from ._options import add_model_arguments, load

HELP = "an HTTP service that decodes requests in batches"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port to serve at; 0: any free one (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="most texts decoded together (default: %(default)s)")
    parser.add_argument(
        "--wait", type=float, default=5, metavar="MS",
        help="milliseconds that a request waits for others to be decoded with, at most (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="host name that a proxy on this machine passes on; repeatable (default: localhost and its addresses)",
    )  # fmt: skip
    for name, default, what in (
        ("body", 1 << 20, "bytes of a request's body"),
        ("texts", 64, "texts of a request"),
        ("requests", 128, "requests at once, waiting ones included"),
        ("hypotheses", 8, "hypotheses of a text, as the beam"),
    ):
        help = f"most {what}; more are refused (default: %(default)s)"
        parser.add_argument(f"--max-{name}", type=int, default=default, metavar="N", help=help)


def run(args: argparse.Namespace) -> None:
    for module, package in (("starlette", "starlette"), ("uvicorn", "uvicorn"), ("prometheus_client", "prometheus-client")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"the service needs {package}, which is not installed: {install_command(package, 'serve')}")
    from ..serving.requests import Limits
    from ..serving.server import serve

    check_number("--wait", args.wait, whole=False)
    limits = Limits(args.max_body, args.max_texts, args.max_requests, args.max_hypotheses)
    serve(lambda: load(args), args.host, args.port, limits, args.batch, args.wait / 1000, tuple(args.allow_host))
