"""Lines from stdin, whatever that is: a terminal, a pipe, a file, nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
from typing import Self

__all__ = ["MAX_LINE", "Lines"]

MAX_LINE = 4096
"""Bytes of a line; an answer takes about 30."""


class Lines:
    """The lines of stdin, read when they are wanted, for one reader at a time.

    Neither blocks the loop, nor takes a thread, which would keep the process from ending while it reads, nor makes
    stdin non-blocking, which it would be then for every process that shares it.
    """

    def __init__(self) -> None:
        self.ended = False
        """Nothing comes any more."""
        self._buffer = bytearray()
        self._ready: asyncio.Future[None] | None = None
        self._fd = -1
        try:
            self._fd = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):  # closed: that number may be another file's by now
            self.ended = True

    @classmethod
    def of_person(cls) -> Self:
        """Those that a person types. In the background they cannot be read; then nobody answers, and a remote's request must
        not stop the process."""
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        return cls()

    async def read(self) -> bytes | None:
        """The next line; None at the end. Of a line that is too long, ``MAX_LINE`` and one byte are kept, to tell."""
        while (end := self._buffer.find(b"\n")) < 0 and not self.ended:
            del self._buffer[MAX_LINE + 1 :]
            await self._wait()
            self._fill()
        line = bytes(self._buffer if end < 0 else self._buffer[:end])
        del self._buffer[: len(line) + 1]
        return line[: MAX_LINE + 1] if line or end >= 0 else None

    def discard(self) -> None:
        """Drops what was typed ahead: an answer must not meet a question that was not yet shown when it was typed."""
        if not self.ended and os.isatty(self._fd):
            with contextlib.suppress(termios.error):
                termios.tcflush(self._fd, termios.TCIFLUSH)

    def close(self) -> None:
        """Ends it, also for who reads."""
        self.ended = True
        self._buffer.clear()
        self._wake()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self._fd, self._wake)
        except PermissionError:  # epoll's for what never blocks: a regular file, /dev/null
            await asyncio.sleep(0)
            return
        self._ready = loop.create_future()
        try:
            await self._ready
        finally:
            self._ready = None
            loop.remove_reader(self._fd)

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _fill(self) -> None:
        if self.ended:
            return
        try:
            data = os.read(self._fd, MAX_LINE)
        except BlockingIOError:
            return
        except OSError:  # the terminal is gone, or another job's
            data = b""
        self._buffer += data
        self.ended = not data
