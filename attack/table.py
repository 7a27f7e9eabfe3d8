"""All attacks, by name."""

from __future__ import annotations

from attack import bodies, connections, frames, multicast, relays, requests, websockets
from attack.terms import Attack

__all__ = ["ATTACKS"]

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for module in (requests, connections, frames, websockets, multicast, bodies, relays)
    for attack in module.ATTACKS
}
