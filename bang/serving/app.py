"""The service's pages: POST /generate, /health, /metrics, and a description of them."""

import asyncio
import dataclasses
import functools
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ..errors import UserError
from ..inference.api import Bang, Generation
from ..inference.sources import TextTooLong
from .batching import BatchingEngine
from .guard import LocalOnly
from .metrics import CONTENT_TYPE, Metrics
from .openapi import describe, page
from .requests import TEXTS, Limits, Refusal, parse

BODY_SECONDS = 10.0
"""Seconds that a client has to send a body."""

_LONGEST_ERROR = 400  # characters: a message may quote the bad input


class Service:
    """A model behind HTTP.

    Args:
        model: its engine becomes a `BatchingEngine`.
        limits: what a request may hold.
        rows: largest number of texts in a batch.
        wait: most seconds that a request waits for others.
        version: bang's version.
    """

    def __init__(self, model: Bang, limits: Limits, rows: int, wait: float, version: str):
        self.metrics = Metrics()
        self._engine = BatchingEngine(model.engine, rows, wait, self.metrics.observe_batch)
        model.engine = self._engine
        self._model, self._limits = model, limits
        self._active = 0
        self._threads = ThreadPoolExecutor(limits.requests, thread_name_prefix="bang request")
        self._description = describe(model, version, limits)

    def app(self, guarded: bool, names: tuple[str, ...] = (), on_start: Callable[[], None] = lambda: None) -> Starlette:
        """The ASGI application.

        Args:
            guarded: see `LocalOnly`.
            names: further host names that are accepted.
            on_start: called when it is ready.
        """

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            on_start()
            yield
            self._engine.close()
            self._threads.shutdown(wait=False)

        routes = [
            Route("/generate", self._generate, methods=["POST"]),
            Route("/health", self._health),
            Route("/metrics", self._show_metrics),
            Route("/openapi.json", self._openapi),
            Route("/docs", self._docs),
            Route("/", self._index),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(LocalOnly, names=names)] if guarded else [],
            exception_handlers={HTTPException: _http_error, Exception: _internal_error},
            lifespan=lifespan,
        )

    async def _generate(self, request: Request) -> Response:
        start = time.perf_counter()
        self._active += 1
        self.metrics.active.set(self._active)
        response: Response = _error(500, "internal error; the service's log has it")
        try:
            response = await self._answer(request)
        except Refusal as error:
            response = _error(error.status, str(error))
        except TextTooLong as error:
            response = _error(413, str(error))
        except UserError as error:
            response = _error(400, str(error))
        finally:
            self._active -= 1
            self.metrics.active.set(self._active)
            self.metrics.requests.labels(str(response.status_code)).inc()
            self.metrics.seconds.observe(time.perf_counter() - start)
        return response

    async def _answer(self, request: Request) -> Response:
        if self._active > self._limits.requests:
            raise Refusal(429, f"{self._limits.requests} requests are being served, the limit: try again in a second")
        body = await _read_body(request, self._limits.body)
        arguments = parse(body, self._model, self._limits)
        content = await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(self._content, arguments))
        return Response(content, media_type="application/json")

    def _content(self, arguments: dict[str, Any]) -> bytes:
        """Runs in one thread per request, so that `BatchingEngine` can batch several requests."""
        found: Generation | list[Generation] = self._model.generate(arguments.pop(TEXTS), details=True, **arguments)
        plain = [dataclasses.asdict(one) for one in found] if isinstance(found, list) else dataclasses.asdict(found)
        return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()

    async def _health(self, request: Request) -> Response:
        ready = self._engine.is_alive
        return JSONResponse({"status": "ok" if ready else "not ready", "modes": self._model.modes}, 200 if ready else 503)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._description)

    async def _docs(self, request: Request) -> Response:
        shown = page(self._description, str(request.base_url).rstrip("/"))
        return HTMLResponse(shown, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})

    async def _index(self, request: Request) -> Response:
        return RedirectResponse("/docs")


async def _read_body(request: Request, limit: int) -> bytes:
    """Reads the body, and stops as soon as it is over the limit.

    Raises:
        Refusal: it is too large, too slow, not sent as JSON, or ends early.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, f"Content-Type {kind[:80]!r}: send JSON, as application/json")
    too_large = Refusal(413, f"the body is over the limit of {limit} bytes: send fewer or shorter texts")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise Refusal(400, "the connection ended before the body did") from None
    return bytes(body)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """One line of JSON."""
    message = message if len(message) <= _LONGEST_ERROR else f"{message[:_LONGEST_ERROR]}…"
    headers = {"Retry-After": "1"} if status == 429 else headers
    return JSONResponse({"error": message}, status, headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    pages = "; there are POST /generate and GET /health, /metrics, /openapi.json, /docs"
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}{pages}", dict(error.headers or {}))


def _internal_error(request: Request, error: Exception) -> Response:
    return _error(500, "internal error; the service's log has it")
