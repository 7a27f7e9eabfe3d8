"""The timer by which rules end."""

from __future__ import annotations

import asyncio
from typing import Final

from .rules import Firewall

__all__ = ["Expiry"]

MAX_WAIT: Final = 1.0
"""Seconds between two looks at the clock, which may have been set meanwhile."""


class Expiry:
    """Has a firewall drop the rules whose ends have come, from :meth:`start` to :meth:`close`. No timer runs while no rule has
    an end."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        firewall.dated = self._wait

    def start(self) -> None:
        """Begins, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def close(self) -> None:
        """Stops; rules still end where they are looked for."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        left = self._firewall.seconds_left
        if self._loop is None or left is None:
            return
        due = self._loop.time() + min(left, MAX_WAIT)
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        self._firewall.expire()
        self._wait()
