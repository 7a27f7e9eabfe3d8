"""asyncio's own event loop, but for the system below it: time, sockets and threads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import Context
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from stronghold_p2p.store import database_thread
from stronghold_p2p.transport import netlink

from .process import Process
from .sockets import Selector, Socket
from .world import here, world

__all__ = ["Loop", "replace_system"]

T = TypeVar("T")
H = TypeVar("H", bound=asyncio.Handle)

DISK: Final = 0.01
"""Seconds at most of what is done in a thread."""


class Loop(asyncio.SelectorEventLoop):
    """Runs all processes of a world. What a thread would do happens at once, and is told after a while."""

    def __init__(self) -> None:
        self.selector = Selector()
        super().__init__(self.selector)
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return world.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        return _unless_dead(super().call_soon(callback, *args, context=context))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return _unless_dead(super().call_at(when, callback, *args, context=context))

    def handles(self) -> tuple[asyncio.Handle, ...]:
        """All that is to be called, cancelled or not."""
        return (*self._ready, *self._scheduled)  # type: ignore[attr-defined]

    def forget_descriptors(self, fds: Iterable[int]) -> list[object]:
        """The process that has them is no more. What it would have been called by."""
        transports = [self._transports.pop(fd, None) for fd in fds]  # type: ignore[attr-defined]
        return [self.selector.drop(fds), transports]

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        done = self.create_future()

        def work() -> None:
            if done.cancelled():
                return
            try:
                done.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - it is told
                done.set_exception(error)

        self.call_later(world.chance.random() * DISK, work)
        return done

    # No other thread wakes it.

    def _make_self_pipe(self) -> None: ...

    def _close_self_pipe(self) -> None: ...

    def _write_to_self(self) -> None: ...


def _unless_dead(handle: H) -> H:
    """What belongs to this process of all, such as the watch of interfaces, may call those that are dead."""
    process = handle._context.get(here)  # type: ignore[attr-defined]
    if isinstance(process, Process) and not process.is_alive:
        process.drop(handle)
    return handle


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **arguments: Any) -> asyncio.Task[Any]:
    """Known to its process."""
    context: Context | None = arguments.get("context")
    process = here.get() if context is None else context.get(here)
    task = asyncio.Task(work, loop=loop, context=context)
    if isinstance(process, Process):
        process.tasks.add(task)
    return task


class _Executor:
    """Does at once what a thread would do."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def submit(self, job: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(job())
        except Exception as error:  # noqa: BLE001 - it is told
            done.set_exception(error)
        return done

    def shutdown(self, wait: bool) -> None: ...


def _addresses() -> list[netlink.AddressFacts]:
    process = here.get()
    assert isinstance(process, Process)
    return [(ip_address("127.0.0.1"), 1, True, 8), (ip_address(process.machine.ip), 2, True, 24)]


def replace_system() -> None:
    """Has all that the library asks of the system answered by the world."""
    socket.socket = Socket  # type: ignore[assignment,misc]
    netlink.addresses = _addresses
    vars(database_thread)["ThreadPoolExecutor"] = _Executor
