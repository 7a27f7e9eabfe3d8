"""Answerers of the firewall's questions: handlers and iterators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import iscoroutine
from typing import Any, Final, Self

from ..logs import SparingLog
from ..loops import Owner, is_contained
from .questions import FirewallRequest, Question

__all__ = ["FirewallRequestQueue", "Handler", "Queue"]


class Handler:
    """A handler, plain or async. A plain one keeps the question after it returns, for a later answer."""

    def __init__(self, function: Callable[[FirewallRequest], Any]) -> None:
        self.function: Final = function
        self._tasks: dict[Question, asyncio.Task[None]] = {}
        self._log_failure = SparingLog(
            logging.ERROR,
            "a handler of firewall requests failed: question %d is left to the others, or rejected if there are none",
        )

    def take(self, question: Question) -> bool:
        try:
            answered = self.function(FirewallRequest(question))
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
    """The questions in an iterator's buffer. Ended questions are removed to make room for others."""

    def __init__(self, size: int, owner: Owner) -> None:
        if size < 1:
            raise ValueError(f"buffer must be at least 1, not {size}")
        self.owner: Final = owner
        self.questions: Final[dict[Question, None]] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the questions; None before the first."""
        self._size = size
        self._closed = False
        self._changed = asyncio.Event()

    def take(self, question: Question) -> bool:
        if len(self.questions) >= self._size:
            return False
        self.loop = asyncio.get_running_loop()
        self.questions[question] = None
        self._changed.set()
        return True

    def drop(self, question: Question) -> None:
        self.questions.pop(question, None)

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def next(self) -> Question:
        """Removes and returns the oldest question.

        Raises:
            StopAsyncIteration: the queue is closed and empty.
        """
        self.owner.check()
        while not self.questions:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        question = next(iter(self.questions))
        del self.questions[question]
        return question


class FirewallRequestQueue:
    """An iterator over the firewall's questions, for ``async for``, also in several tasks.

    It gets questions until it is closed or garbage-collected.
    """

    def __init__(self, queue: Queue, remove: Callable[[Queue], None], forget: Callable[[Queue], None]) -> None:
        self._queue = queue
        self._remove = remove
        self._forget = forget

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FirewallRequest:
        return FirewallRequest(await self._queue.next())

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
