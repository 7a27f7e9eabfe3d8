"""asyncio's own event loop, but for the system below it: time, sockets and threads."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import Context
from ipaddress import ip_address
from typing import Any, ClassVar, Final, TypeVar

from stronghold_p2p.store import database_thread
from stronghold_p2p.transport import eager, lookups, netlink

from .network import Machine
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
        self.set_task_factory(lambda loop, work, **named: _Task(work, loop=loop, **named))

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


class _Task(asyncio.Task[T]):
    """Known to its process, and hashed by its number: the order of a set of tasks must not depend on where they lie in memory."""

    _numbers: ClassVar = itertools.count()

    def __init__(self, work: Any, *, context: Context | None = None, **named: Any) -> None:
        self._number = next(self._numbers)
        process = here.get() if context is None else context.get(here)
        if isinstance(process, Process):
            process.tasks.add(self)
        super().__init__(work, context=context, **named)

    def __hash__(self) -> int:
        return self._number


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


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(None, work)


def _addresses() -> list[netlink.AddressFacts]:
    machine = _machine()
    if machine.network.is_ip6:
        return [(ip_address("::1"), 1, True, 128), (ip_address(machine.ip), 2, True, 64)]
    return [(ip_address("127.0.0.1"), 1, True, 8), (ip_address(machine.ip), 2, True, 24)]


def _getaddrinfo(host: str, port: int | None, *, family: int, type: int) -> list[Any]:
    ip = _machine().network.look_up(host)
    if ip is None:
        raise socket.gaierror(socket.EAI_AGAIN, "nobody has answered")
    return [(family, type, 0, "", (ip, port))]


def _machine() -> Machine:
    process = here.get()
    assert isinstance(process, Process)
    return process.machine


def replace_system() -> None:
    """Has all that the library asks of the system answered by the world."""
    socket.socket = Socket  # type: ignore[assignment,misc]
    asyncio.Task = vars(eager)["Task"] = _Task  # type: ignore[misc,assignment]
    socket.getaddrinfo = _getaddrinfo  # type: ignore[assignment]
    netlink.addresses = _addresses
    vars(lookups)["in_thread"] = _in_thread
    vars(database_thread)["ThreadPoolExecutor"] = _Executor
