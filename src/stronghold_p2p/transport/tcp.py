"""TCP over IPv4 and IPv6, by address or by name."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from functools import lru_cache, partial
from math import ceil
from typing import Final, cast

from ..config import Config
from ..errors import ListenError
from ..events import Path
from ..multiaddr import Multiaddr
from ..resources.networks import networks_of
from ..resources.turns import Turns, clock
from .accepting import SHARES_PORTS, Acceptor, listening_sockets
from .buffers import READ_BUFFER_SIZE, buffers_of
from .lent_port import TAKEN, borrow
from .pipe import PipeReceiver
from .resolver import NAME_FAMILIES
from .transport import DIAL_PLAINLY, LISTEN_PLAINLY, Connected, DialOptions, ListenOptions, refuse_certificate

__all__ = ["TcpListener", "TcpPipe", "TcpTransport"]

FIRST_READ: Final = 64 * 1024
"""Bytes of a pipe's first read, and of each that follows a pause. A read that is full and worked on at once allows four times
as many: what is not worked on is kept, for each of thousands of connections."""

SMALL_READ: Final = 16 * 1024
"""Bytes of a read while the turn is over: all of them are kept. So few pipes keep a large read at any time: the first of
them ends the turn for all, for as long as its own work takes."""

LITTLE: Final = 4 * 1024
"""Bytes of one read that are kept without a pause of the socket: nearly all remotes wait for the answer to what they have sent,
and a pause costs two system calls. A second read ends in one all the same, so that nobody is read again and again."""

USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Linux has it: what was sent and is not acknowledged for so many milliseconds ends the connection (RFC 5482)."""

INBOUND: Final = Path("tcp")
"""The path of every pipe that a remote has dialed."""

FAMILIES: Final = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6, **NAME_FAMILIES}


class TcpPipe(asyncio.BufferedProtocol):
    """One TCP connection as a byte pipe. asyncio and uvloop set TCP_NODELAY by themselves.

    ``read_buffer`` is that of the event loop, shared by all of its pipes: what a read brings is consumed before the
    callback returns, or copied if it has to wait for its turn.
    """

    receiver: PipeReceiver
    remote_address: Multiaddr
    local_address: Multiaddr | None
    allowance = None
    _transport: asyncio.Transport

    def __init__(self, read_buffer: memoryview, config: Config, turns: Turns, path: Path, connected: Connected) -> None:
        self.path = path
        self._read_buffer = read_buffer
        self._config = config
        self._heard_at = clock()
        self._read_size = FIRST_READ
        self._turns = turns
        self._connected = connected
        self._lost = False
        self._paused = False
        """By the receiver."""
        self._stopped = False
        """The transport is paused."""
        self._kept = b""
        """What was read and waits: a small read at most."""
        self._half_closed = False
        """The remote sends no more, and what it has sent waits."""
        self._end: tuple[Exception | None] | None = None
        """The connection has ended with that error, while something waited."""

    # -- as a pipe -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._transport.is_closing():  # of which the receiver may not know yet
            self._transport.write(data)

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._read_size = FIRST_READ
            self._stop()
            self._turns.forget(self._go_on)

    def silence(self) -> float:
        if self._paused or self._kept or (USER_TIMEOUT is not None and self._transport.get_write_buffer_size()):
            return 0.0
        return clock() - self._heard_at

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._heard_at = clock()
            if self._kept or self._end is not None:
                self._wait_for_turn()
            else:
                self._start()

    def close(self) -> None:
        self._drop()
        self._transport.close()

    def abort(self) -> None:
        self._drop()
        self._transport.abort()

    # -- as a protocol of asyncio ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._transport.set_write_buffer_limits(high=self._config.max_send_buffer)
        if self.path is not INBOUND:  # else it has that already
            _limit_silence(transport.get_extra_info("socket"), self._config)
        # None: the remote hung up between accept and here; connection_lost is about to be called.
        self.remote_address = _multiaddr(transport.get_extra_info("peername") or ("0.0.0.0", 0))
        self.local_address = _multiaddr(transport.get_extra_info("sockname") or ("0.0.0.0", 0))
        self.receiver = self._connected(self)
        del self._connected  # that of a dial has all of the handshake, with its keys, and us

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._kept or self._turns.over:
            return self._read_buffer[: SMALL_READ - len(self._kept)]
        return self._read_buffer[: self._read_size]

    def buffer_updated(self, nbytes: int) -> None:
        turns = self._turns
        if turns.over or self._paused or self._kept:
            self._keep(nbytes)
            return
        began, counted = clock(), turns.counted
        self._heard_at = began
        try:
            self.receiver.data_received(self._read_buffer[:nbytes])
        except KeyboardInterrupt as error:
            # It must end the program; here uvloop would take it for the end of the connection.
            asyncio.get_running_loop().call_soon(_raise, error)
        turns.count(began, counted)
        if nbytes == self._read_size and not self._paused:
            if nbytes == READ_BUFFER_SIZE:
                # uvloop would read on, and what was read would pile up before those who wait for it.
                self._stop()
                asyncio.get_running_loop().call_soon(self._read_on)
            self._read_size = min(4 * nbytes, READ_BUFFER_SIZE)

    def eof_received(self) -> bool:
        """While something waits, the transport stays open for the answer to that."""
        self._half_closed = bool(self._kept)
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        # An end takes time, too: each of hundreds of streams hears of it.
        self._lost = True
        if self._kept or self._turns.over:
            self._end = (exc,)
            if not self._kept:
                self._wait_for_turn()
        else:
            self._turns.run(self.receiver.pipe_closed, exc)

    def pause_writing(self) -> None:
        self.receiver.pause_writing()

    def resume_writing(self) -> None:
        self.receiver.resume_writing()

    def _read_on(self) -> None:
        if not (self._paused or self._kept or self._lost):
            self._start()

    def _stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._transport.pause_reading()

    def _start(self) -> None:
        if self._stopped:
            self._stopped = False
            self._transport.resume_reading()

    # -- what waits ------------------------------------------------------------------------------

    def _keep(self, nbytes: int) -> None:
        """Has what was read wait. Nothing more is read, if that is much or something waited before."""
        if self._kept or nbytes > LITTLE:
            self._stopped = True
            self._transport.pause_reading()  # again, perhaps: uvloop forgets a pause that came with the connection
        self._kept += self._read_buffer[:nbytes]
        self._read_size = FIRST_READ
        if not self._paused:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        self._turns.wait((*networks_of(self.remote_address), self), self._go_on)

    def _go_on(self) -> None:
        """It is our turn."""
        kept, self._kept = self._kept, b""
        self._heard_at = clock()
        try:
            if kept:
                self.receiver.data_received(memoryview(kept))
        finally:
            if self._end is not None:
                end, self._end = self._end, None
                self.receiver.pipe_closed(*end)
            elif self._half_closed:
                self._transport.close()
            elif not self._paused:
                self._start()

    def _drop(self) -> None:
        """The pipe ends by our own will: what waits is not heard."""
        if self._kept or self._end is not None:
            self._kept = b""
            self._turns.forget(self._go_on)
            if self._end is not None:
                end, self._end = self._end, None
                asyncio.get_running_loop().call_soon(self.receiver.pipe_closed, *end)


class TcpListener:
    """One TCP address that is listened on; a name may be several sockets."""

    def __init__(self, acceptor: Acceptor, address: Multiaddr, ended: Callable[[], object]) -> None:
        self._acceptor = acceptor
        self._ended = ended
        self.address = address

    def close(self) -> None:
        self._acceptor.close()
        self._ended()


class TcpTransport:
    """Dials and listens on ``/ip4|ip6|dns|dns4|dns6/.../tcp/...``; a name to dial is resolved before.

    ``turns`` share the loop's time among all pipes.
    """

    name: Final = "tcp"

    def __init__(self, config: Config, turns: Turns) -> None:
        self._config = config
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._read_buffer = buffers_of(self._loop).read
        self._acceptors: dict[Acceptor, None] = {}
        """Those that accept, the oldest first."""
        self._accepted: set[asyncio.Task[object]] = set()
        """One for each connection that is accepted, and is no pipe yet."""

    def supports(self, address: Multiaddr) -> bool:
        names = [name for name, _ in address.components]
        return len(names) == 2 and names[0] in FAMILIES and names[1] == "tcp"

    async def dial(self, address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        family, host, port = _endpoint(address)
        make = partial(self._pipe, Path(self.name, address), connected)
        listening = (one for acceptor in self._acceptors for one in acceptor.sockets)
        lent = None
        if options.from_listen_port is not False:
            lent = borrow(listening, family, host, always=options.from_listen_port is True)
        if lent is None or not await self._dial_with(lent, host, port, make):
            try:
                await self._loop.create_connection(make, host, port, family=family)
            except OSError as error:
                reason = _system_reason(error)
                if reason is None:
                    raise
                raise OSError(error.errno, reason) from error

    async def listen(
        self, address: Multiaddr, connected: Connected, options: ListenOptions = LISTEN_PLAINLY
    ) -> TcpListener:
        refuse_certificate(address, options.certificate)
        if options.trusted_proxies:
            raise ListenError(address, "trusted proxies are for addresses with HTTP, such as /ip4/127.0.0.1/tcp/80/ws")
        if options.reuse_port and not SHARES_PORTS:
            raise ListenError(
                address, "this system does not spread connections over processes that share a port: Linux does"
            )
        family, host, port = _endpoint(address)
        try:
            sockets = await listening_sockets(family, host, port, reuse_port=options.reuse_port)
        except UnicodeError as error:
            raise ListenError(address, f"{host!r} is not a host name") from error
        except OSError as error:
            raise ListenError(address, (_system_reason(error) or str(error)).lower()) from error
        acceptor = Acceptor(sockets, partial(self._take, connected), options.exhausted)
        self._acceptors[acceptor] = None
        return TcpListener(acceptor, _multiaddr(sockets[0].getsockname()), partial(self._acceptors.pop, acceptor, None))

    async def close(self) -> None:
        """Listeners and pipes are closed by whoever has them."""
        for task in self._accepted:
            task.cancel()
        if self._accepted:
            await asyncio.wait(self._accepted)

    async def _dial_with(self, lent: socket.socket, host: str, port: int, make: Callable[[], TcpPipe]) -> bool:
        """Whether there could be a connection between the two ports."""
        try:
            await self._loop.sock_connect(lent, (host, port))
        except BaseException as error:
            lent.close()
            if isinstance(error, OSError) and error.errno in TAKEN:
                return False
            raise
        await self._loop.create_connection(make, sock=lent)
        return True

    def _pipe(self, path: Path, connected: Connected) -> TcpPipe:
        return TcpPipe(self._read_buffer, self._config, self._turns, path, connected)

    def _take(self, connected: Connected, connection: socket.socket) -> None:
        """Makes a pipe of a connection that was accepted."""
        _limit_silence(connection, self._config)  # by this object: the transport's would cost three system calls more
        made = self._loop.connect_accepted_socket(lambda: self._pipe(INBOUND, connected), connection)
        task = self._loop.create_task(made)
        self._accepted.add(task)
        task.add_done_callback(partial(self._taken, connection))

    def _taken(self, connection: socket.socket, task: asyncio.Task[object]) -> None:
        self._accepted.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            connection.close()
        if error is not None and not isinstance(error, OSError):  # else the remote did not wait
            raise error


def _raise(error: BaseException) -> None:
    raise error


def _limit_silence(connection: socket.socket, config: Config) -> None:
    if USER_TIMEOUT is not None:
        connection.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, ceil(config.liveness_timeout * 1000))


def _system_reason(error: OSError) -> str | None:
    """Event loops put the address in its place. None if the error is not the system's."""
    known = error.errno is not None and error.errno in errno.errorcode
    return os.strerror(error.errno or 0) if known else None


def _endpoint(address: Multiaddr) -> tuple[int, str, int]:
    """The arguments for a socket; ``address`` is one that the transport supports."""
    (kind, host), (_, port) = address.components
    assert host is not None
    assert port is not None
    return FAMILIES[kind], host, int(port)


@lru_cache(maxsize=16)  # all connections of a listener have its address
def _multiaddr(socket_address: tuple[str, int] | tuple[str, int, int, int]) -> Multiaddr:
    host, port = socket_address[:2]
    return Multiaddr.of_tcp(host.partition("%")[0], port)
