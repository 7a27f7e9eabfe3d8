"""Counts what limits refuse, and tells of it: at most one line and one event a second for each limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from ..events import Event, LimitReached
from ..logs import INTERVAL
from .networks import Networks

__all__ = ["Refusals"]

logger = logging.getLogger("stronghold_p2p")


class Refusals:
    """``emit`` takes the events."""

    def __init__(self, emit: Callable[[Event], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit: Final = emit
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        """By limit: those that were not told of yet."""

    def add(self, limit: str, networks: Networks) -> None:
        """Something of a remote in ``networks`` gave way, because ``limit`` was reached, as named by :class:`LimitReached`."""
        count = self._counts[limit] = self._counts.get(limit, 0) + 1
        now = self._clock()
        if now < self._silent_until.get(limit, 0.0):
            return
        self._silent_until[limit] = now + INTERVAL
        self._counts[limit] = 0
        self._emit(LimitReached(limit, networks[0], count))
        name = limit if "." in limit else f"Config.{limit}"
        logger.warning("%s is reached: %d refused, the last one of %s", name, count, networks[0])
