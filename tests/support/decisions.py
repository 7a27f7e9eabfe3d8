"""A decision of the firewall, of which a test names what matters to it."""

from __future__ import annotations

from typing import Any

from stronghold_p2p import Direction, FirewallDecision, PeerId, Rule

__all__ = ["decision"]


def decision(
    peer: PeerId, type_name: str | None = None, rule: Rule | None = None, *, allowed: bool, **others: Any
) -> FirewallDecision:
    """The first one of a peer; without more by a rule that is a default, about an inbound request."""
    values: dict[str, Any] = {
        "id": 1,
        "name": None,
        "direction": Direction.INBOUND,
        "layer": "none" if rule is None else "default",
        "line": None,
        "by": "rule",
        "how": "approved" if allowed else "rejected",
        "waited": 0.0,
    }
    text = None if rule is None else repr(rule)
    return FirewallDecision(peer=peer, type=type_name, rule=text, allowed=allowed, **(values | others))
