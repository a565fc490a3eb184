"""Keeps other sites' web pages from using a service on this machine."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


def is_loopback(host: str) -> bool:
    """Whether an address or name can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LocalOnly:
    """ASGI middleware that refuses foreign `Host` and `Origin` headers with 403, before any of the body is read.

    A web page can make its visitor's browser send requests to the visitor's own machine. Such a request has the page's
    `Origin`. If the page's name was made to resolve to 127.0.0.1 (DNS rebinding), it has that name in `Host`.

    Args:
        app: the application to protect.
        names: further host names that are accepted.
    """

    def __init__(self, app: ASGIApp, names: tuple[str, ...] = ()):
        self.app, self.names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            message = self._refusal(headers.getlist("host"), headers.getlist("origin"))
            if message:
                await JSONResponse({"error": message}, 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, hosts: list[str], origins: list[str]) -> str | None:
        host = _host_of(f"//{hosts[0]}") if len(hosts) == 1 else None
        if host is None or not (is_loopback(host) or host in self.names):
            return "the Host header names another machine; this service answers on this one only (--allow-host adds names)"
        if any(_place(origin) != hosts[0].lower() for origin in origins):
            return "the Origin header names another site; this service answers its own pages and programs only"
        return None


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _place(origin: str) -> str | None:
    """Host and port, as the Host header gives them."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
