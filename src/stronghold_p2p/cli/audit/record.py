"""What the lines of an audit say: an event each. What remotes say is cut, and escaped, before it waits to be written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from ...events import (
    Dropped,
    Event,
    FirewallDecision,
    LimitReached,
    PolicyFailed,
    PolicyLoaded,
    StateFailed,
)
from .. import output, paths

__all__ = ["MAX_TYPE", "Record", "record_of"]

Record: TypeAlias = Mapping[str, object]

MAX_TYPE: Final = 200
"""Characters of a type or a name: in untyped JSON a type is the remote's own text, with which it could fill the disk."""

MAX_TEXT: Final = 2000
"""Characters of a rule, which may name types of a remote, of an error, which may quote one, or of a reason."""


def record_of(event: Event) -> Record | None:
    """The event as an audit has it, without its time; None if it has no line."""
    match event:
        case FirewallDecision():
            return _decision(event)
        case LimitReached(limit, network, count):
            return {"event": "limit", "limit": limit, "network": network, "count": count}
        case PolicyLoaded(path):
            return {"event": "policy", "path": text(path)}
        case PolicyFailed(error) | StateFailed(error):
            kind = "policy" if isinstance(event, PolicyFailed) else "state"
            return {"event": f"{kind}_failed", "error": text(str(error))}
        case Dropped(count):
            return {"event": "dropped", "dropped": count}
    return None


def _decision(event: FirewallDecision) -> dict[str, Any]:
    return {
        "event": "decision",
        "peer": str(event.peer),
        "address": None if event.address is None else str(event.address),
        "relay": paths.relay_of(event.address),
        "direction": str(event.direction.name).lower(),
        "type": text(event.type, MAX_TYPE),
        "rule": text(event.rule),
        "layer": event.layer,
        "allowed": event.allowed,
        "waited": round(event.waited, 3),
    }


def text(value: str | None, limit: int = MAX_TEXT) -> str | None:
    """The text, escaped, in at most so many characters."""
    return None if value is None else output.printable(value, limit)
