"""A process on a machine: its tasks, timers and sockets, which end with it, however that comes."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from weakref import WeakSet

from stronghold_p2p.transport.buffers import Buffers

from .network import Machine
from .world import here

if TYPE_CHECKING:
    from .loop import Loop
    from .sockets import Socket

__all__ = ["Process"]

T = TypeVar("T")

_dead: list[object] = []
"""Of processes that have ended, what would do something yet when it is collected as garbage, as tasks in their ``finally``
blocks."""


class Process:
    """What runs in one: all that its tasks begin, and what calls them back, is its own, as a context variable says."""

    sockets_of_all: ClassVar[dict[int, Socket]] = {}
    """By descriptor. As in a real process, the lowest free one is the next, which soon is another's again."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sockets: dict[int, Socket] = {}
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.is_alive = True
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._context = contextvars.copy_context()
        self._context.run(here.set, self)

    def __repr__(self) -> str:
        return f"<process on {self.machine.name}>"

    @property
    def skew(self) -> float:
        """The clock on the wall of its machine."""
        return self.machine.skew

    def open(self, socket: Socket) -> int:
        """The descriptor of a new socket."""
        fd = next(fd for fd in range(len(self.sockets_of_all) + 1) if fd not in self.sockets_of_all)
        self.sockets_of_all[fd] = self.sockets[fd] = socket
        return fd

    def forget(self, fd: int) -> None:
        """The socket is closed."""
        del self.sockets[fd], self.sockets_of_all[fd]

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of this process."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    def call(self, work: Any, *arguments: Any) -> Any:
        """A call in this process, now."""
        return self._context.copy().run(work, *arguments)

    def kill(self) -> None:
        """Ends it, as ``kill -9``: nothing of it runs any more, and the system closes its sockets."""
        self._stop()
        for socket in tuple(self.sockets.values()):
            socket.close()

    def lose_power(self) -> None:
        """Ends it with its machine: nobody hears of that."""
        self._stop()
        for socket in tuple(self.sockets.values()):
            socket.vanish()
        self.machine.lose_power()

    def _stop(self) -> None:
        loop = cast("Loop", asyncio.get_running_loop())
        self.is_alive = False
        for handle in self._handles():
            self.drop(handle)
        _dead.extend(self.tasks)
        _dead.extend(loop.forget_descriptors(self.sockets))
        self.ended.set_result(None)

    @staticmethod
    def drop(handle: asyncio.Handle) -> None:
        """Never calls it: its process is dead."""
        _dead.append((handle._callback, handle._args))  # type: ignore[attr-defined]
        handle.cancel()

    def left(self) -> list[str]:
        """What there is of it yet."""
        return [
            *(f"a task is left: {task!r}" for task in self.tasks if not task.done()),
            *(f"a call is left: {handle!r}" for handle in self._handles()),
            *(f"a socket is left: {socket!r}" for socket in self.sockets.values()),
        ]

    def _handles(self) -> list[Any]:
        """What is to be called in it, but for what belongs to the event loop: that is the one of all processes here."""
        every: tuple[Any, ...] = cast("Loop", asyncio.get_running_loop()).handles()
        return [
            handle
            for handle in every
            if handle._context.get(here) is self
            and not handle.cancelled()
            and not isinstance(getattr(handle._callback, "__self__", None), Buffers)
        ]
