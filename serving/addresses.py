"""Parse and format addresses of the form HOST:PORT."""

import ipaddress
import re

from pipeline.errors import InputError
from serving.tf_serving import REST_PORT

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/?#@\[\]]+):(?P<port>[0-9]{1,5})")
MAX_PORT = 65535


def checked_address(field: str, text: str) -> str:
    """Return `text` if it is HOST:PORT, with brackets around an IPv6 host.

    Raises:
        InputError: the text is not HOST:PORT.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or not 1 <= int(match["port"]) <= MAX_PORT or not is_host(match["host"]):
        raise InputError(f"{field} {text!r}: expected HOST:PORT, such as 127.0.0.1:{REST_PORT}")
    return text


def joined(host: str, port: int) -> str:
    """Return HOST:PORT, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_host(text: str) -> bool:
    """Return whether a text is a valid host name or IP address; IPv6 with or without brackets."""
    try:
        if ":" in text:
            ipaddress.IPv6Address(text.strip("[]"))
        else:
            text.encode("idna")
    except ValueError:  # includes UnicodeError: a label of the name is empty or too long
        return False
    return bool(text)
