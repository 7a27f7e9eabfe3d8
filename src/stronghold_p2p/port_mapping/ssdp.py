"""The search for a UPnP router (UPnP Device Architecture 1.1, section 1.3). Pure."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final
from urllib.parse import urlsplit

__all__ = ["KINDS", "encode_search", "find_location", "is_at"]

KINDS: Final = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (1, 2))

MAX_URL: Final = 512
"""Characters of a router's URL; usual ones have 40."""


def encode_search(kind: str, host: str, port: int) -> bytes:
    """Asks devices of a kind to answer within a second."""
    lines = ("M-SEARCH * HTTP/1.1", f"HOST: {host}:{port}", 'MAN: "ssdp:discover"', "MX: 1", f"ST: {kind}", "", "")
    return "\r\n".join(lines).encode()


def find_location(data: bytes, gateway: IPv4Address) -> str | None:
    """The URL of the description in the answer of a router, if it lies on ``gateway``: it is about to be opened."""
    first, *lines = data.decode("latin-1").split("\r\n")
    headers = {name.strip().upper(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    location = headers.get("LOCATION", "")
    if not first.startswith("HTTP/1.1 200") or headers.get("ST") not in KINDS or not is_at(location, gateway):
        return None
    return location


def is_at(url: str, gateway: IPv4Address) -> bool:
    """Whether ``url`` is of HTTP, at the address of ``gateway``."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is none
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url and "@" not in parts.netloc
    return plain and len(url) <= MAX_URL and parts.scheme == "http" and parts.hostname == str(gateway)
