"""Threads for what may block for long, and can neither be awaited nor stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(job: Callable[[], T], patience: float) -> T:
    """What ``job`` returns, or raises, in a thread of its own.

    Unlike the threads of an executor it keeps no process from ending.

    Raises:
        TimeoutError: it took longer than ``patience`` seconds; the thread works on.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # the job's own None

    def work() -> None:
        result, error = None, None
        try:
            result = job()
        except BaseException as raised:  # noqa: BLE001  it is raised where the result is awaited
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="stronghold-p2p-port-mapping", daemon=True).start()
    async with asyncio.timeout(patience):
        return await done
