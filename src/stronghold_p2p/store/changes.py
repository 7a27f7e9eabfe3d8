"""What has changed in a state file, as values."""

from __future__ import annotations

from typing import NamedTuple

from ..events import Direction
from ..firewall.rule import Rule
from ..identity import PeerId

__all__ = ["BanChange", "Change", "NameChange", "RuleChange"]


class RuleChange(NamedTuple):
    """Another rule of a peer, in one direction. If it was removed (``rule`` is None), only the rule that was kept
    (``before``) is meant, not one that a call has set since."""

    peer: PeerId
    direction: Direction
    before: Rule | None
    rule: Rule | None


class BanChange(NamedTuple):
    """A peer that is now banned, or no longer is."""

    peer: PeerId
    banned: bool


class NameChange(NamedTuple):
    """A peer that has another petname now; with None, none."""

    peer: PeerId
    name: str | None


Change = RuleChange | BanChange | NameChange
