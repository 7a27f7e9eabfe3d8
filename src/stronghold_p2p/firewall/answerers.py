"""Answerers of the firewall's questions: handlers and iterators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import iscoroutine
from typing import Any, Final, Protocol, Self

from ..logs import SparingLog
from ..loops import Owner, is_contained
from ..resources.shares import Path, Shares
from .questions import FirewallRequest, Question
from .room import OURS

__all__ = ["FirewallRequestQueue", "Handler", "Queue", "Shown", "Turns"]


class Handler:
    """A handler, plain or async. A plain one keeps the question after it returns, for a later answer."""

    def __init__(self, function: Callable[[FirewallRequest], Any], by: str) -> None:
        self.function: Final = function
        self._by = by
        self._tasks: dict[Question, asyncio.Task[None]] = {}
        self._log_failure = SparingLog(
            logging.ERROR,
            "a handler of firewall requests failed: question %d is left to the others, or rejected if there are none",
        )

    def take(self, question: Question) -> bool:
        try:
            answered = self.function(FirewallRequest(question, self._by))
            is_async = hasattr(answered, "__await__")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - also CancelledError, which a plain function raised itself
            self._log_failure.write(question.id, exc_info=error)
            return False
        if is_async:
            task = asyncio.get_running_loop().create_task(self._run(question, answered))
            self._tasks[question] = task
            task.add_done_callback(partial(self._done, question, answered))
        question.shown += 1
        return True

    def drop(self, question: Question) -> None:
        """Cancels the handler, so that a remote cannot accumulate waiting ones. The one that ended the question goes on."""
        task = self._tasks.get(question)
        if task is not None and task is not asyncio.current_task():
            del self._tasks[question]
            task.cancel()

    def close(self) -> None:
        for question in list(self._tasks):
            self.drop(question)

    async def _run(self, question: Question, answered: Awaitable[Any]) -> None:
        try:
            await answered
        except BaseException as error:
            question.give_up(self)
            if not is_contained(error, question.loop):
                raise
            self._log_failure.write(question.id, exc_info=error)

    def _done(self, question: Question, answered: Awaitable[Any], task: asyncio.Task[None]) -> None:
        self._tasks.pop(question, None)
        if iscoroutine(answered):
            answered.close()  # a task cancelled before its first step never starts the coroutine


class Queue:
    """The questions in an iterator's buffer, which are taken by turns among networks, and then among peers.

    Ended questions are removed to make room for others. Without room the newest one of the largest holder is given up.
    """

    def __init__(self, size: int, owner: Owner) -> None:
        if size < 1:
            raise ValueError(f"buffer must be at least 1, not {size}")
        self.owner: Final = owner
        self.questions: Final[Shares[Question]] = Shares()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the questions; None before the first."""
        self._size = size
        self._closed = False
        self._changed = asyncio.Event()

    def take(self, question: Question) -> bool:
        self.questions.add(question.holder.path, question)
        if len(self.questions) > self._size:
            excess = self.questions.newest_of_largest(spared=OURS)
            self.questions.discard(excess)
            if excess is question:
                return False
            excess.give_up(self)
        self.loop = asyncio.get_running_loop()
        self._changed.set()
        return True

    def drop(self, question: Question) -> None:
        self.questions.discard(question)

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def next(self) -> Question:
        """Removes and returns the question whose turn it is.

        Raises:
            StopAsyncIteration: the queue is closed and empty.
        """
        self.owner.check()
        while not self.questions:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        question = self.questions.next()
        question.shown += 1
        return question


class Shown(Protocol):
    """A question, as far as it has a turn, such as a :class:`FirewallRequest`."""

    @property
    def path(self) -> Path: ...

    def count_shown(self, times: int) -> None: ...


class Turns:
    """So many questions at once, by turns among networks, and then among peers: for whoever shows them to a person.

    Each :meth:`take` that returns is followed by a :meth:`pass_on`.
    """

    def __init__(self, places: int = 1) -> None:
        self._places = places
        self._free = places
        self._waiting: Shares[asyncio.Future[None]] = Shares()

    @property
    def waiting(self) -> int:
        """The number of those that wait for their turn."""
        return len(self._waiting)

    @property
    def places(self) -> int:
        """How many are shown at once. With fewer places, those that are shown stay."""
        return self._places

    @places.setter
    def places(self, places: int) -> None:
        self._free += places - self._places
        self._places = places
        self._call()

    async def take(self, ask: Shown) -> None:
        """Waits for the turn of a question. May be cancelled."""
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(ask.path, turn)
        ask.count_shown(-1)  # not yet
        try:
            await turn
            ask.count_shown(1)
        except asyncio.CancelledError:
            if not self._waiting.discard(turn) and not turn.cancelled():
                self.pass_on()  # it had come meanwhile
            raise

    def pass_on(self) -> None:
        """Ends a turn."""
        self._free += 1
        self._call()

    def _call(self) -> None:
        while self._free > 0 and self._waiting:
            turn = self._waiting.next()
            if not turn.done():
                self._free -= 1
                turn.set_result(None)


class FirewallRequestQueue:
    """An iterator over the firewall's questions, for ``async for``, also in several tasks. They come by turns among networks,
    and then among peers.

    It gets questions until it is closed or garbage-collected.
    """

    def __init__(self, queue: Queue, by: str, remove: Callable[[Queue], None], forget: Callable[[Queue], None]) -> None:
        self._queue = queue
        self._by = by
        self._remove = remove
        self._forget = forget

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FirewallRequest:
        return FirewallRequest(await self._queue.next(), self._by)

    def close(self) -> None:
        """Ends the iteration, and gives up all its questions. Those without another answerer are rejected."""
        self._queue.owner.check()
        self._remove(self._queue)

    def __del__(self) -> None:
        loop = self._queue.loop
        if loop is None:
            self._forget(self._queue)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._forget, self._queue)  # the garbage collector runs in any thread
