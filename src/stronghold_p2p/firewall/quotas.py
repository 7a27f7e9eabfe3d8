"""Limits of a peer's requests by type, and of their sizes. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_LIMIT", "Limit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What one peer may have of inbound requests. None: no limit of that kind."""

    per_second: float | None = None
    """How many begin in a second; may be below 1."""
    in_flight: int | None = None
    """How many are decided or handled at once."""
    max_bytes: int | None = None
    """The size of each in bytes, as it is encoded."""


NO_LIMIT = Limit()
