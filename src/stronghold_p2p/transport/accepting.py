"""Listening sockets, and the connections that they accept.

asyncio's own server accepts as many in one callback as may wait, and out of descriptors logs a traceback and sets a timer
for each of them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from ..logs import SparingLog
from .lookups import in_thread

__all__ = ["SHARES_PORTS", "Acceptor", "listening_sockets"]

BACKLOG: Final = 1024
"""Connections that the system completes before they are accepted, if its own limit allows as many. Those of a flood stand
in the same queue as the others, and when that is full, further ones are lost for a second or more."""

AT_ONCE: Final = 16
"""Connections accepted in one callback. With what is made of each it takes 0.15 ms; more at once are no faster."""

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the system says when it has no descriptor for a connection, or no memory."""

FIRST_PAUSE: Final = 0.001
"""Seconds without accepting after the system has failed: what gives way is closed meanwhile. Twice as long each time that
it fails again, for the socket says all the while that a connection waits."""

LAST_PAUSE: Final = 0.1

log = SparingLog(logging.WARNING, "no connection can be accepted: %s")


SHARES_PORTS: Final = sys.platform.startswith("linux")
"""Linux spreads connections over all sockets of one user that listen on a port with SO_REUSEPORT. Where others have that
option, the last socket gets all of them."""


class Acceptor:
    """Accepts the connections of some listening sockets, which it owns. ``accepted`` takes each of them, not blocking;
    ``exhausted`` is called when there is no descriptor for the next one, and may close what matters least."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        accepted: Callable[[socket.socket], None],
        exhausted: Callable[[], None],
    ) -> None:
        self.sockets = sockets
        self._accepted = accepted
        self._exhausted = exhausted
        self._pause = FIRST_PAUSE
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        """Of those that are not read."""
        self._loop = asyncio.get_running_loop()
        for listening in sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Those that are accepted stay."""
        for listening in self.sockets:
            if listening in self._pauses:
                self._pauses.pop(listening).cancel()
            else:
                self._loop.remove_reader(listening)
            listening.close()
        self.sockets = ()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # the remote did not wait
            except OSError as error:
                self._stop_for_a_while(listening, error)
                return
            self._pause = FIRST_PAUSE
            connection.setblocking(False)
            self._accepted(connection)

    def _stop_for_a_while(self, listening: socket.socket, error: OSError) -> None:
        log.write((error.strerror or str(error)).lower())
        self._loop.remove_reader(listening)
        self._pauses[listening] = self._loop.call_later(self._pause, self._go_on, listening)
        self._pause = min(2 * self._pause, LAST_PAUSE)
        if error.errno in EXHAUSTED:
            self._exhausted()

    def _go_on(self, listening: socket.socket) -> None:
        del self._pauses[listening]
        self._loop.add_reader(listening, self._accept, listening)


async def listening_sockets(family: int, host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """One for each address that ``host`` stands for: all of them, or none if that fails or is cancelled. ``reuse_port``: other
    processes of the same user may listen there, too, if they say the same.

    Raises:
        UnicodeError: ``host`` is no name.
        OSError: ``host`` is unknown, or one of its addresses cannot be listened on.
    """
    sockets: list[socket.socket] = []
    unsupported = None
    try:
        for kind, where in await _resolve(family, host, port):
            try:
                sockets.append(_listening_socket(kind, where, reuse_port))
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                unsupported = error  # a name may have an IPv6 address where there is no IPv6
        if not sockets and unsupported is not None:
            raise unsupported
    except BaseException:
        for made in sockets:
            made.close()
        raise
    return sockets


async def _resolve(family: int, host: str, port: int) -> Iterable[tuple[int, tuple[Any, ...]]]:
    """Families and addresses, as sockets have them."""
    try:
        socket.inet_pton(family, host)
    except OSError:
        found = await in_thread(
            partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )
        return dict.fromkeys((kind, where) for kind, _, _, _, where in found)
    return [(family, (host, port))]


def _listening_socket(family: int, where: tuple[Any, ...], reuse_port: bool) -> socket.socket:
    # asyncio sets TCP_NODELAY where it sees this protocol, which accepted connections have from here.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the connections of an earlier listener may linger
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # /ip6 is not /ip4
        made.bind(where)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made
