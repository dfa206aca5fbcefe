"""Refuse HTTP requests from pages of other sites, for unknown hosts, and with ambiguous lengths.

Every page in a browser on this machine can reach a server on a loopback address: it can resolve its
own host name to 127.0.0.1 (DNS rebinding), or send a POST without reading the response (CSRF). Both
are recognised by headers that pages cannot set: `Host`, `Origin` and `Sec-Fetch-Site`.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.server.json_answer import error_answer

NOSNIFF = {"X-Content-Type-Options": "nosniff"}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class KnownHosts:
    """The host names under which clients may reach the server.

    Args:
        names: lower-case host names without port. Loopback names are always accepted.
        others: whether all other host names are accepted too.
    """

    names: frozenset[str] = frozenset()
    others: bool = False

    def knows(self, host: str) -> bool:
        """Return whether a `Host` header, with or without a port, names this server."""
        if self.others:
            return True
        name = _host_name(f"//{host}")
        return name is not None and (name in self.names or is_loopback(name))


def known_hosts(bound: str, host: str, allowed: tuple[str, ...] = ()) -> KnownHosts:
    """Return the host names that a server accepts.

    Args:
        bound: IP address that the server is bound to. If it is not a loopback address and `allowed`
            is empty, all host names are accepted.
        host: address as given by the user.
        allowed: further host names, without port.
    """
    names = frozenset(name.lower().rstrip(".") for name in (host, *allowed))
    return KnownHosts(names, others=not allowed and not is_loopback(bound))


def is_loopback(host: str) -> bool:
    """Return whether a lower-case host name or IP address always means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _host_name(url: str) -> str | None:
    """Return the lower-case host of a URL without its port; None if it has none."""
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


def refusal(method: str, headers: Headers, hosts: KnownHosts) -> tuple[int, str] | None:
    """Return the HTTP status and message to refuse a request with; None to accept it."""
    if "content-length" in headers and "transfer-encoding" in headers:
        # Request smuggling: a proxy may use the other header and see a different next request.
        return 400, "Content-Length and Transfer-Encoding contradict each other"
    host = headers.get("host")
    if host and not hosts.knows(host):
        return 403, f"Host {host[:100]!r} is not a name of this server; see --allowed-hosts"
    if method not in _SAFE_METHODS and not _is_same_origin(headers, hosts):
        return 403, "Requests from pages of other sites are refused"
    return None


def _is_same_origin(headers: Headers, hosts: KnownHosts) -> bool:
    """Return whether a request is from a page of this server, or not from a browser page."""
    fetch_site = headers.get("sec-fetch-site")
    if fetch_site is not None:  # sent by all current browsers, on HTTPS and loopback addresses
        return fetch_site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True
    return origin.partition("://")[2] == headers.get("host") or _host_name(origin) in hosts.names


_ABSOLUTE = re.compile(rb"https?://([^/]+)(.*)", re.IGNORECASE | re.DOTALL)


def in_origin_form(scope: Scope) -> Scope:
    """Return a request's scope with a path and a `Host`, also if its target is a whole URL.

    Proxies send `POST http://HOST/PATH`. Its host counts, and not the header: RFC 9112, 3.2.2.
    """
    absolute = _ABSOLUTE.fullmatch(scope["raw_path"])
    if not absolute:
        return scope
    host, path = absolute[1], absolute[2] or b"/"
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {
        **scope,
        "raw_path": path,
        "path": unquote(path.decode("ascii")),
        "headers": [(b"host", host), *headers],
    }


class OriginCheck:
    """An ASGI middleware that answers refused requests itself and passes on the others."""

    def __init__(self, app: ASGIApp, hosts: KnownHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        scope = in_origin_form(scope)
        refused = refusal(scope["method"], Headers(scope=scope), self._hosts)
        if not refused:
            await self._app(scope, receive, send)
            return
        status, message = refused
        headers = {"Connection": "close", **NOSNIFF} if status == 400 else NOSNIFF
        response = Response(error_answer(message), status, headers, "application/json")
        await response(scope, receive, send)
