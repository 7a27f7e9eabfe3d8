"""Tasks that begin at once: what never waits costs no turn of the event loop.

Python has that from 3.12 on (``eager_start``). Before, a task begins in the next turn. There the first step of its coroutine
is taken here, as the task, and the task goes on from there when its turn comes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from types import coroutine as as_coroutine
from typing import Any, Final

__all__ = ["EAGER", "begin"]

EAGER: Final = sys.version_info >= (3, 12)
"""Python does it by itself."""

# Looked up once: each request takes this path.
Task: Final = asyncio.Task
enter: Final = asyncio._enter_task
leave: Final = asyncio._leave_task


def begin(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Runs ``coroutine`` as a task, up to its first wait at once. None if it has ended there; KeyboardInterrupt is raised."""
    if sys.version_info >= (3, 12):
        task = asyncio.Task(coroutine, loop=loop, eager_start=True)
        return None if task.done() else task
    context = copy_context()
    steps = _steps(coroutine)
    task = Task(steps, loop=loop, context=context)
    current = None
    try:
        enter(loop, task)
    except RuntimeError:  # there is one, which waits meanwhile
        current = asyncio.current_task(loop)
        assert current is not None
        leave(loop, current)
        enter(loop, task)
    try:
        ended = context.run(steps.send, None)
    finally:
        leave(loop, task)
        if current is not None:
            enter(loop, current)
    return None if ended else task


@as_coroutine
def _steps(coroutine: Coroutine[Any, Any, None]) -> Generator[Any, None, None]:
    """The first step, for whoever begins it: yields whether ``coroutine`` has ended. The task takes all others."""
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        yield True
        return
    except KeyboardInterrupt:
        raise
    except BaseException:  # the task ends with it
        yield True
        raise
    if asyncio.isfuture(awaited):
        awaited._asyncio_future_blocking = False  # as the task would: else nobody else could wait for it
    try:
        yield False
    except asyncio.CancelledError as error:
        # Before the task could wait: as it would then, it cancels what it waits for.
        if not (asyncio.isfuture(awaited) and awaited.cancel()):
            try:
                awaited = coroutine.throw(error)
            except StopIteration:
                return
    while True:
        try:
            if asyncio.isfuture(awaited):
                awaited._asyncio_future_blocking = True
            yield awaited
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the wait has ended with
            try:
                awaited = coroutine.throw(error)
            except StopIteration:
                return
        else:
            yield from coroutine.__await__()
            return
