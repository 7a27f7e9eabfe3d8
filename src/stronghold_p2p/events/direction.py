"""Who has initiated a connection or a request."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["DIRECTIONS", "Direction", "direction_word"]


class Direction(enum.Flag):
    """Who initiated: the dialer of a connection, the sender of a request."""

    INBOUND = enum.auto()
    """The remote: it dialed us, or sent us a request."""
    OUTBOUND = enum.auto()
    """We: we dialed the remote, or sent it a request."""
    BOTH = INBOUND | OUTBOUND


DIRECTIONS: Final[Mapping[str, Direction]] = {"inbound": Direction.INBOUND, "outbound": Direction.OUTBOUND}
"""The two, by the word for each."""


def direction_word(direction: Direction) -> str:
    """``inbound``, ``outbound`` or ``both``."""
    return str(direction.name).lower()
