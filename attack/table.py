"""All attacks, by name."""

from __future__ import annotations

from attack import connections
from attack.terms import Attack

__all__ = ["ATTACKS"]

ATTACKS: dict[str, Attack] = {attack.name: attack for attack in connections.ATTACKS}
