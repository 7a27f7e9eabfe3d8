"""Whether a router has forgotten its mappings, by the age of its table in each answer (RFC 6887, section 8.5). Pure."""

from __future__ import annotations

__all__ = ["Epoch"]


class Epoch:
    """The age of a router's table of mappings, as last seen. NAT-PMP's own rule (RFC 6886, section 3.6) sees less."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def has_restarted(self, age: int, now: float) -> bool:
        """``age`` is in an answer that has come ``now``, both in seconds: whether the table is another than before.

        It also seems to be if our own clock stood still in between, as it does while a computer sleeps: then mappings
        may have run out.
        """
        last, self._last = self._last, (age, now)
        if last is None:
            return False
        theirs, ours = age - last[0], now - last[1]
        return theirs < -1 or ours + 2 < theirs - theirs / 16 or theirs + 2 < ours - ours / 16
