"""Rate-limited logging, for lines that a remote can cause."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

__all__ = ["SparingLog"]

logger = logging.getLogger("stronghold_p2p")

INTERVAL: Final = 1.0
"""Seconds between lines of one kind. A reader sees a problem and its extent within a second, and a remote that causes ten
thousand a second adds at most 86,400 lines a day."""


class SparingLog:
    """Writes lines of one kind to the library's log: one in :data:`INTERVAL`, with the number of those that were left
    out since the one before.

    That is a limit for all remotes together: one for each would be none, as a remote makes as many identities as it
    likes.
    """

    __slots__ = ("_clock", "_left_out", "_level", "_message", "_silent_until")

    def __init__(self, level: int, message: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._level = level
        self._message = message
        self._clock = clock
        self._silent_until = float("-inf")
        self._left_out = 0

    def write(self, *args: object, exc_info: BaseException | None = None) -> None:
        """``args`` are for the message, ``exc_info`` is an exception whose traceback follows it."""
        now = self._clock()
        if now < self._silent_until:
            self._left_out += 1
            return
        self._silent_until = now + INTERVAL
        message = self._message
        if self._left_out:
            message += " (%d more like it were left out)"
            args = (*args, self._left_out)
            self._left_out = 0
        logger.log(self._level, message, *args, exc_info=exc_info)
