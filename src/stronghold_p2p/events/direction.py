"""Who has initiated a connection or a request."""

from __future__ import annotations

import enum

__all__ = ["Direction"]


class Direction(enum.Flag):
    """Who initiated: the dialer of a connection, the sender of a request."""

    INBOUND = enum.auto()
    """The remote: it dialed us, or sent us a request."""
    OUTBOUND = enum.auto()
    """We: we dialed the remote, or sent it a request."""
    BOTH = INBOUND | OUTBOUND
