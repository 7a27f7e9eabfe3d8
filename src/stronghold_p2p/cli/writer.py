"""stdout and stderr as bytes. While an event loop runs, a thread writes them."""

from __future__ import annotations

import asyncio
import logging
import select
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Literal

from .worker import Worker

__all__ = ["MAX_WAITING", "OutputFailed", "Writer"]

logger = logging.getLogger("stronghold_p2p")

MAX_WAITING = 1024 * 1024
"""Bytes that wait to be read before the stream counts as stalled: some thousand questions."""

LAST_WORDS = 1.0
"""Seconds for the rest to be read when the command is interrupted."""


class OutputFailed(Exception):
    """What was printed did not arrive."""

    def __init__(self, stream: str, error: OSError) -> None:
        super().__init__(f"cannot write to {stream}: {error.strerror or error}")


class Writer:
    """One of the two streams. ``essential``: the command has failed if what it prints here does not arrive.

    What is written goes past Python's buffer, in which it could fail once more when the process ends.
    """

    def __init__(self, name: Literal["stdout", "stderr"], *, essential: bool) -> None:
        self._name = name
        self._essential = essential
        self._background: _Background | None = None

    @property
    def stream(self) -> Any:
        """That of ``sys``, as it is now."""
        return getattr(sys, self._name)

    @property
    def is_stalled(self) -> bool:
        """Whether nobody reads, so that no more should be written: too much waits, or they have left."""
        background = self._background
        return background is not None and (background.waiting > MAX_WAITING or background.failure is not None)

    def write(self, data: bytes) -> None:
        """Writes all of it, or has it written in the background.

        Raises:
            OutputFailed: it did not arrive, and is essential. What fails in the background is told at its end.
        """
        if self._background is not None:
            self._background.write(self.stream, data)
            return
        try:
            _write(self.stream, data)
        except OSError as error:
            if self._essential:
                raise OutputFailed(self._name, error) from error

    @asynccontextmanager
    async def in_background(self) -> AsyncIterator[None]:
        """As long as it lasts a thread writes: a pipe that nobody reads, or a terminal that is stopped, stalls no loop.

        The end waits until all is written, or briefly if it comes by cancellation. A failure of what is essential
        cancels the task whose context it is.

        Raises:
            OutputFailed: what was written did not arrive, and is essential.
        """
        task = asyncio.current_task()
        assert task is not None
        background = self._background = _Background(self._name, task, essential=self._essential)
        try:
            yield
        except asyncio.CancelledError:
            await background.end(LAST_WORDS)
            if background.failure is None or not background.essential:
                raise
            task.uncancel()
        except Exception:
            await background.end(None)
            raise
        else:
            await background.end(None)
        finally:
            self._background = None
            background.worker.stop()
        if background.failure is not None and background.essential:
            raise OutputFailed(self._name, background.failure) from background.failure

    def release(self) -> None:
        """For the rest of the background nothing is essential: what does not arrive any more is told in the log, once."""
        if self._background is not None:
            self._background.essential = False

    async def drained(self) -> None:
        """Returns when all that was written in the background has left."""
        if self._background is not None:
            await self._background.drained()


class _Background:
    """A thread that writes. ``task`` is cancelled when what is ``essential`` fails."""

    def __init__(self, name: str, task: asyncio.Task[Any], *, essential: bool) -> None:
        self.worker = Worker(name)
        self.failure: OSError | None = None
        self.essential = essential
        self._name = name
        self._task: asyncio.Task[Any] | None = task
        self._loop = asyncio.get_running_loop()
        self._submitted = 0
        self._written = 0
        """Counted by the worker alone, and the one above by the loop's thread."""

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self._submitted - self._written

    def write(self, stream: Any, data: bytes) -> None:
        self._submitted += len(data)
        self.worker.submit(partial(self._write, stream, data))

    async def drained(self) -> None:
        await asyncio.wrap_future(self.worker.submit(lambda: None))

    async def end(self, patience: float | None) -> None:
        """Returns when all is written, or after ``patience`` seconds."""
        self._task = None  # it ends by itself
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.drained()

    def _write(self, stream: Any, data: bytes) -> None:
        try:
            if self.failure is None:
                _write(stream, data)
        except OSError as error:
            self.failure = error
            self._loop.call_soon_threadsafe(self._failed, error)
        finally:
            self._written += len(data)

    def _failed(self, error: OSError) -> None:
        if not self.essential:
            logger.warning("cannot write to %s any more: %s", self._name, error.strerror or error)
        elif self._task is not None:
            self._task.cancel()


def _write(stream: Any, data: bytes) -> None:
    stream.flush()
    raw = getattr(stream.buffer, "raw", stream.buffer)  # a test's has no buffer above the bytes
    rest = memoryview(data)
    while rest:
        written = raw.write(rest)
        if written is None:  # somebody who shares it has made it non-blocking
            select.select([], [raw], [])
        else:
            rest = rest[written:]
