"""All attacks, by name."""

from __future__ import annotations

from attack import bodies, connections, frames, relays, requests
from attack.terms import Attack

__all__ = ["ATTACKS"]

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (*requests.ATTACKS, *connections.ATTACKS, *frames.ATTACKS, *bodies.ATTACKS, *relays.ATTACKS)
}
