"""The tasks of a connection: each lives as long as the connection at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from ..resources.turns import Turns
from .eager import EAGER, begin

__all__ = ["HandlerTasks"]

MIN_SWEEP: Final = 2
"""Tasks below which none is swept."""


class HandlerTasks:
    """Those that have ended are swept out when their number has doubled, and when the connection falls quiet: a callback
    for each would cost every request a turn of the loop. The newest is kept apart: most have ended when the next begins,
    which then takes its place."""

    __slots__ = ("_all_ended", "_loop", "_newest", "_sweep_at", "_tasks", "_turns", "at_once", "woken")

    def __init__(self, loop: asyncio.AbstractEventLoop, turns: Turns) -> None:
        self.woken = False
        """A task is about to run: what it writes should leave in the same flush."""
        self.at_once = True
        """Set for each read: what begins next does so at once."""
        self._loop = loop
        self._turns = turns
        self._newest: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """All others that may still run."""
        self._sweep_at = MIN_SWEEP
        self._all_ended: Callable[[], None] | None = None

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``coroutine``; it must not raise."""
        task = self._loop.create_task(coroutine)
        if not task.done():
            self._add(task)
        return task

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """As :meth:`spawn`, but up to its first wait at once; None if it has ended there.

        Where Python cannot do that by itself it costs something, and gains more if it saves the connection a turn of the loop: of
        many that come in one read, it is done for the first alone, unless requests wait to begin: the time that each takes is to
        be known.
        """
        if not (EAGER or self.at_once or self._turns.crowded):
            return self.spawn(coroutine)
        self.at_once = False
        task = begin(coroutine, self._loop)
        if task is not None:
            self._add(task)
        return task

    def fewer_than(self, limit: int) -> bool:
        """Whether fewer than ``limit`` run."""
        running = self._newest is not None and not self._newest.done()
        if len(self._tasks) + running >= limit:
            self._sweep()
        return len(self._tasks) + running < limit

    def fall_quiet(self) -> None:
        """No stream is open: a thousand connections share the cache, and none keeps a task that has ended."""
        if self._newest is not None and self._newest.done():
            self._newest = None
        if self._tasks:
            self._sweep()

    def end(self, all_ended: Callable[[], None]) -> None:
        """Cancels every task, also those that are still to come; calls back when the last one has ended."""
        self._all_ended = all_ended
        if self._newest is not None:
            self._tasks.add(self._newest)
            self._newest = None
        self._sweep()
        for task in self._tasks:
            self._end(task)
        if not self._tasks:
            self._tell()

    def _add(self, task: asyncio.Task[None]) -> None:
        self.woken = True
        if self._all_ended is not None:
            self._tasks.add(task)
            self._end(task)
            return
        earlier, self._newest = self._newest, task
        if earlier is not None and not earlier.done():
            self._tasks.add(earlier)
            if len(self._tasks) >= self._sweep_at:
                self._sweep()

    def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._tell()

    def _tell(self) -> None:
        """The last one has ended. Whoever owns us is told once: else it would be freed by the collector only."""
        all_ended, self._all_ended = self._all_ended, _told
        if all_ended is not None:
            all_ended()

    def _sweep(self) -> None:
        self._tasks = {task for task in self._tasks if not task.done()}
        self._sweep_at = max(MIN_SWEEP, 2 * len(self._tasks))


def _told() -> None:
    """In the place of whom :meth:`HandlerTasks.end` was given, which has been told."""
