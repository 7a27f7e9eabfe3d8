"""What the lines of an audit say: an event each. What remotes say is cut, and escaped, before it waits to be written."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final, TypeAlias

from ...events import (
    BanChanged,
    Dropped,
    Event,
    FirewallDecision,
    LimitReached,
    NameChanged,
    PolicyFailed,
    PolicyLoaded,
    RequestHandled,
    RuleChanged,
    SignedAnswer,
    StateFailed,
)
from ...events.direction import direction_word
from ...multiaddr import Multiaddr
from .. import paths
from ..text import printable

__all__ = ["MAX_TYPE", "Record", "as_text", "record_of", "refused", "signature_of"]

Record: TypeAlias = Mapping[str, object]

MAX_TYPE: Final = 200
"""Characters of a type or a name: in untyped JSON a type is the remote's own text, with which it could fill the disk."""

MAX_TEXT: Final = 2000
"""Characters of a rule, which may name types of a remote, of an error, which may quote one, or of a reason."""

MAX_SIGNATURES: Final = 32
"""Answers of approvers that are kept of a decision. Each is some hundred bytes, and no policy needs as many."""


def record_of(event: Event) -> Record | None:
    """The event as an audit has it, without its time; None if it has no line."""
    match event:
        case FirewallDecision():
            return _decision(event)
        case RequestHandled(id, peer, outcome, seconds):
            return {
                "event": "handled",
                "id": id,
                "peer": str(peer),
                "outcome": outcome,
                "seconds": round(seconds, 3),
            }
        case BanChanged(peer, banned):
            return {"event": "ban" if banned else "unban", "peer": str(peer)}
        case NameChanged(peer, name):
            return {"event": "name", "peer": str(peer), "name": as_text(name, MAX_TYPE)}
        case RuleChanged(peer, direction, rule):
            return {
                "event": "rule",
                "peer": None if peer is None else str(peer),
                "direction": direction_word(direction),
                "rule": as_text(rule),
            }
        case PolicyLoaded(path):
            return {"event": "policy", "path": as_text(path)}
        case PolicyFailed(error):
            return {"event": "policy_failed", "error": as_text(str(error))}
        case StateFailed(error):
            return {"event": "state_failed", "error": as_text(str(error))}
        case LimitReached(limit, network, count):
            return {"event": "limit", "limit": limit, "network": network, "count": count}
        case Dropped(count):
            return {"event": "dropped", "dropped": count}
    return None


def refused(count: int, address: Multiaddr, error: Exception) -> Record:
    """So many refused connections, with the last one of them."""
    return {"event": "connections_refused", "count": count, "address": str(address), "reason": as_text(str(error))}


def as_text(value: str | None, limit: int = MAX_TEXT) -> str | None:
    """The text, escaped, in at most so many characters."""
    return None if value is None else printable(value, limit)


def _decision(event: FirewallDecision) -> Record:
    record = {
        "event": "decision",
        "id": event.id,
        "peer": str(event.peer),
        "name": as_text(event.name, MAX_TYPE),
        "address": None if event.address is None else str(event.address),
        "relay": paths.relay_of(event.address),
        "direction": direction_word(event.direction),
        "type": as_text(event.type, MAX_TYPE),
        "rule": as_text(event.rule),
        "layer": event.layer,
        "line": event.line,
        "allowed": event.allowed,
        "by": as_text(event.by),
        "how": event.how,
        "waited": round(event.waited, 3),
        "reason": as_text(event.reason),
        "signatures": [signature_of(signed) for signed in event.signatures[:MAX_SIGNATURES]],
        "observed": event.observed,
    }
    return record if event.view is None else {**record, "view": event.view}


def signature_of(signed: SignedAnswer) -> Record:
    """The envelope proves the rest, which is in it."""
    return {
        "approver": str(signed.approver),
        "approved": signed.approved,
        "scope": signed.scope,
        "seconds": signed.seconds,
        "reason": as_text(signed.reason),
        "envelope": base64.b64encode(signed.envelope).decode(),
    }
