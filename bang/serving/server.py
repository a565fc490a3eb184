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
"""How long requests that were accepted may still take after SIGTERM."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; nothing is accepted yet.

    Raises:
        UserError: the address cannot be had; one line.
    """
    check_number("port", port, most=65535)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with contextlib.ExitStack() as on_error:
            bound = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(1)  # of two services that start at once the second learns it here
            on_error.pop_all()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use: give another with --port, or end what uses it") from None
        raise UserError(f"cannot serve at {host}, port {port}: {(error.strerror or str(error)).lower()}") from None
    return bound


def serve(
    load: Callable[[], Bang], host: str, port: int, limits: Limits, rows: int, wait: float, names: tuple[str, ...] = ()
) -> None:
    """Loads a model and serves it; SIGTERM and Ctrl-C end it once the accepted requests are answered.

    Args:
        load: the model. It is called when the port is known to be free.
        host, port: to serve at; port 0: any that is free.
        limits, rows, wait: see `Service`.
        names: hosts that are served beside those of this machine, where `host` is this machine's alone.

    Raises:
        UserError: the address cannot be had, or what `load` raises.
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

        # uvicorn has handlers of its own while it runs, and hands a SIGTERM on to this one after them
        signal.signal(signal.SIGTERM, end)
        server.run([bound])


def _warm_up(model: Bang) -> None:
    """The first batch of a mode is slow; the first client need not wait for it."""
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
        http="h11",  # bounds the headers too
        loop="asyncio",
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        backlog=2048,
        timeout_keep_alive=75,  # longer than clients keep idle connections: one that is closed under a request loses it
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
