"""Which HTTP requests are refused unread: other sites' pages, unknown hosts, ambiguous lengths.

A server on a loopback address can be reached by every page that a browser on that machine shows.
A page of another site can point its own name at 127.0.0.1 (DNS rebinding), or send a POST whose
answer it cannot read. Both are recognised by headers that pages cannot set: `Host`, `Origin` and
`Sec-Fetch-Site`.
"""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.server.json_answer import error_answer

NOSNIFF = {"X-Content-Type-Options": "nosniff"}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class KnownHosts:
    """The names under which clients may reach the server.

    Args:
        names: lower-case host names without port. Loopback names are always known.
        others: whether hosts that are not listed are accepted.
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
    """Return the hosts that a server accepts.

    Args:
        bound: the IP address that it is bound to. Unless it is a loopback address, and unless
            `allowed` restricts them, all hosts are accepted.
        host: the address as the user gave it.
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
    """Return the status and the message that refuse a request, or None for one to answer."""
    if "content-length" in headers and "transfer-encoding" in headers:
        # A proxy in front may go by the other one, and take the rest for another request.
        return 400, "Content-Length and Transfer-Encoding contradict each other"
    host = headers.get("host")
    if host and not hosts.knows(host):
        return 403, f"Host {host[:100]!r} is not a name of this server; see --allowed-hosts"
    if method not in _SAFE_METHODS and not _is_same_origin(headers, hosts):
        return 403, "Requests from pages of other sites are refused"
    return None


def _is_same_origin(headers: Headers, hosts: KnownHosts) -> bool:
    """Return whether a request is from a page of this server, or from no page at all."""
    fetch_site = headers.get("sec-fetch-site")
    if fetch_site is not None:  # of all current browsers, on HTTPS and loopback addresses
        return fetch_site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True
    return origin.partition("://")[2] == headers.get("host") or _host_name(origin) in hosts.names


class OriginCheck:
    """An ASGI application that answers refused requests itself and passes on the others."""

    def __init__(self, app: ASGIApp, hosts: KnownHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        refused = refusal(scope["method"], Headers(scope=scope), self._hosts)
        if not refused:
            await self._app(scope, receive, send)
            return
        status, message = refused
        headers = {"Connection": "close", **NOSNIFF} if status == 400 else NOSNIFF
        response = Response(error_answer(message), status, headers, "application/json")
        await response(scope, receive, send)
