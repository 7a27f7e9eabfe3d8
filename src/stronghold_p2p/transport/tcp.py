"""TCP over IPv4 and IPv6, by address or by name."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Final, cast
from weakref import WeakKeyDictionary

from ..config import Config
from ..errors import InvalidAddress, ListenError
from ..multiaddr import Multiaddr
from .pipe import BytePipe, PipeReceiver

__all__ = ["TcpPipe", "TcpTransport"]

READ_BUFFER_SIZE: Final = 1024 * 1024
"""Bytes of one read at most. Measured with 1 MB messages: a quarter more than with 256 KiB, and less again with 2 MiB."""

FAMILIES: Final = {
    "ip4": socket.AF_INET,
    "ip6": socket.AF_INET6,
    "dns": socket.AF_UNSPEC,
    "dns4": socket.AF_INET,
    "dns6": socket.AF_INET6,
}


class TcpPipe(asyncio.BufferedProtocol):
    """One TCP connection as a byte pipe. asyncio and uvloop set TCP_NODELAY by themselves.

    ``read_buffer`` is that of the event loop, shared by all of its pipes: what a read brings is consumed before the
    callback returns.
    """

    receiver: PipeReceiver
    remote_address: Multiaddr
    _transport: asyncio.Transport

    def __init__(
        self, read_buffer: memoryview, max_send_buffer: int, connected: Callable[[BytePipe], PipeReceiver]
    ) -> None:
        self._read_buffer = read_buffer
        self._max_send_buffer = max_send_buffer
        self._connected = connected

    # -- as a pipe -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # -- as a protocol of asyncio ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._transport.set_write_buffer_limits(high=self._max_send_buffer)
        # None: the remote hung up between accept and here; connection_lost is about to be called.
        self.remote_address = _multiaddr(transport.get_extra_info("peername") or ("0.0.0.0", 0))
        self.receiver = self._connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.receiver.data_received(self._read_buffer[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self.receiver.pipe_closed(exc)

    def pause_writing(self) -> None:
        self.receiver.pause_writing()

    def resume_writing(self) -> None:
        self.receiver.resume_writing()


_read_buffers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview]] = WeakKeyDictionary()


def _read_buffer_of(loop: asyncio.AbstractEventLoop) -> memoryview:
    """The one of all peers of an event loop: as warm in the cache as it gets, and no megabyte for each peer."""
    buffer = _read_buffers.get(loop)
    if buffer is None:
        buffer = _read_buffers[loop] = memoryview(bytearray(READ_BUFFER_SIZE))
    return buffer


class TcpTransport:
    """Dials and listens on ``/ip4|ip6|dns|dns4|dns6/.../tcp/...``."""

    def __init__(self, config: Config) -> None:
        self._max_send_buffer = config.max_send_buffer
        self._read_buffer = _read_buffer_of(asyncio.get_running_loop())

    @staticmethod
    def supports(address: Multiaddr) -> bool:
        """Whether ``address``, without a peer id, is one of this transport."""
        names = [name for name, _ in address.components]
        return len(names) == 2 and names[0] in FAMILIES and names[1] == "tcp"

    async def dial(self, address: Multiaddr, connected: Callable[[BytePipe], PipeReceiver]) -> None:
        """Connects to ``address``; ``connected`` is called with the pipe before its first byte comes.

        Raises:
            OSError: refused, unreachable, or the name is not known.
        """
        family, host, port = _endpoint(address)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self._pipe(connected), host, port, family=family)
        except UnicodeError as error:
            raise OSError(f"{host!r} is no name of a host") from error

    async def listen(
        self, address: Multiaddr, connected: Callable[[BytePipe], PipeReceiver]
    ) -> tuple[asyncio.Server, Multiaddr]:
        """Listens on ``address``; returns the server and the address as bound (port 0 is resolved).

        Raises:
            ListenError: in use, not an address of this machine, or not permitted.
        """
        family, host, port = _endpoint(address)
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: self._pipe(connected), host, port, family=family, start_serving=False
            )
        except UnicodeError as error:
            raise ListenError(address, f"{host!r} is no name of a host") from error
        except OSError as error:
            # asyncio words a failed bind at length; the system's own words are enough.
            known = error.errno is not None and error.errno in errno.errorcode
            reason = os.strerror(error.errno or 0) if known else str(error)
            raise ListenError(address, reason.lower()) from error
        try:
            await server.start_serving()
        except BaseException:
            server.close()  # cancelled: nobody would have it, and it would listen for ever
            raise
        return server, _multiaddr(server.sockets[0].getsockname())

    def _pipe(self, connected: Callable[[BytePipe], PipeReceiver]) -> TcpPipe:
        return TcpPipe(self._read_buffer, self._max_send_buffer, connected)


def _endpoint(address: Multiaddr) -> tuple[int, str, int]:
    if not TcpTransport.supports(address):
        raise InvalidAddress(address, "only /ip4, /ip6, /dns, /dns4 or /dns6 with /tcp is supported")
    (kind, host), (_, port) = address.components
    assert host is not None
    assert port is not None
    return FAMILIES[kind], host, int(port)


def _multiaddr(socket_address: tuple[str, int] | tuple[str, int, int, int]) -> Multiaddr:
    host, port = socket_address[:2]
    return Multiaddr.of_tcp(host.partition("%")[0], port)
