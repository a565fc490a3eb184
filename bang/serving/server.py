"""Serves a model over HTTP until it is asked to end."""

import contextlib
import errno
import ipaddress
import signal
import socket
from collections.abc import Callable

import uvicorn

from .. import __version__
from ..errors import UserError
from ..inference.api import Bang
from ..options import check_number
from .app import Service
from .guard import is_loopback
from .requests import Limits

DRAIN_SECONDS = 30
"""Seconds that accepted requests may still take after SIGTERM."""


def listen(host: str, port: int) -> socket.socket:
    """Binds a socket; no request is answered yet.

    Raises:
        UserError: the address is not available; one line.
    """
    check_number("port", port, most=65535)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with contextlib.ExitStack() as on_error:
            bound = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(1)  # the second of two services that start at once fails here
            on_error.pop_all()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of {host} is in use: give another with --port, or stop the program that uses it"
            ) from None
        raise UserError(f"cannot serve at {host}, port {port}: {(error.strerror or str(error)).lower()}") from None
    return bound


def serve(
    load: Callable[[], Bang], host: str, port: int, limits: Limits, rows: int, wait: float, names: tuple[str, ...] = ()
) -> None:
    """Loads a model and serves it; SIGTERM and Ctrl-C end it once the accepted requests are answered.

    Args:
        load: loads the model; called once the port is bound.
        host, port: the address; port 0: any free one.
        limits, rows, wait: see `Service`.
        names: further host names that are accepted, if `host` can be reached from this machine only.

    Raises:
        UserError: the address is not available, or `load` raises it.
    """
    check_number("--batch", rows, least=1)
    for name in ("body", "texts", "requests", "hypotheses"):
        check_number(f"--max-{name}", getattr(limits, name), least=1)
    with listen(host, port) as bound:
        model = load()
        _warm_up(model)
        service = Service(model, limits, rows, wait, __version__)
        server = uvicorn.Server(_config(service, bound, is_loopback(host), names))

        def end(*_) -> None:
            server.should_exit = True

        # uvicorn handles SIGTERM itself while it runs, and calls this handler afterwards
        signal.signal(signal.SIGTERM, end)
        server.run([bound])


def _warm_up(model: Bang) -> None:
    """Runs one batch of each mode: the first is slow, and no client should wait for it."""
    for mode in model.modes:
        if mode in (model.engine.shares or model.modes):
            model.generate("one text ahead", mode, beam=1, min_len=1, max_len=5)


def _config(service: Service, bound: socket.socket, guarded: bool, names: tuple[str, ...]) -> uvicorn.Config:
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ipaddress.ip_address(host).version == 6 else host

    def ready() -> None:
        bound.listen(2048)
        print(f"http://{shown}:{port} (/docs describes it; Ctrl-C ends it)", flush=True)

    return uvicorn.Config(
        service.app(guarded, names, ready),
        http="h11",  # limits the headers too
        loop="asyncio",
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        backlog=2048,
        timeout_keep_alive=75,  # longer than clients keep idle connections, so that none is closed under a request
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
