"""How a peer is reached, in words and as JSON: directly, or through which relay, with which limits."""

from __future__ import annotations

from typing import Any

from ..events import Path, PathLimits
from ..identity import PeerId
from ..multiaddr import Multiaddr
from .output import who

__all__ = ["in_words", "limits_in_words", "record", "relay_of"]


def relay_of(address: Multiaddr | None) -> str | None:
    """The relay that forwards to who is at ``address``, for JSON; None if none does, or there is no connection."""
    return None if address is None or address.relay is None else str(address.relay)


def in_words(relay: PeerId | str | None, limits: PathLimits | None = None) -> str:
    """``directly``, or ``through the relay ..., for 600 s and 16,777,216 bytes each way``."""
    if relay is None:
        return "directly"
    shown = who(relay) if isinstance(relay, PeerId) else relay
    return f"through the relay {shown}" + ("" if limits is None else f", for {limits_in_words(limits)}")


def limits_in_words(limits: PathLimits) -> str:
    """Those of a circuit."""
    of_time = f"{limits.seconds:g} s" if limits.seconds is not None else "any time"
    of_bytes = f"{limits.bytes:,} bytes each way" if limits.bytes is not None else "any size"
    return f"{of_time} and {of_bytes}"


def record(path: Path) -> dict[str, Any]:
    """For JSON."""
    limits = path.limits
    return {
        "transport": path.transport,
        "relay": None if path.relay is None else str(path.relay),
        "max_seconds": None if limits is None else limits.seconds,
        "max_bytes": None if limits is None else limits.bytes,
    }
