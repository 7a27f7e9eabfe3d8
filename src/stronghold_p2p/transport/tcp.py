"""TCP over IPv4 and IPv6, by address or by name."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from ipaddress import ip_address
from typing import Final, cast
from weakref import WeakKeyDictionary

import ifaddr

from ..config import Config
from ..errors import ListenError
from ..events import Path
from ..multiaddr import Multiaddr
from .pipe import PipeReceiver
from .resolver import NAME_FAMILIES
from .transport import CertificateFiles, Connected, refuse_certificate

__all__ = ["TcpListener", "TcpPipe", "TcpTransport"]

READ_BUFFER_SIZE: Final = 1024 * 1024
"""Bytes of one read at most. Measured with 1 MB messages: a quarter more than with 256 KiB, and less again with 2 MiB."""

INBOUND: Final = Path("tcp")
"""The path of every pipe that a remote has dialed."""

FAMILIES: Final = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6, **NAME_FAMILIES}


class TcpPipe(asyncio.BufferedProtocol):
    """One TCP connection as a byte pipe. asyncio and uvloop set TCP_NODELAY by themselves.

    ``read_buffer`` is that of the event loop, shared by all of its pipes: what a read brings is consumed before the
    callback returns.
    """

    receiver: PipeReceiver
    remote_address: Multiaddr
    _transport: asyncio.Transport

    def __init__(self, read_buffer: memoryview, max_send_buffer: int, path: Path, connected: Connected) -> None:
        self.path = path
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

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

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
        try:
            self.receiver.data_received(self._read_buffer[:nbytes])
        except KeyboardInterrupt as error:
            # It must end the program; here uvloop would take it for the end of the connection.
            asyncio.get_running_loop().call_soon(_raise, error)

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


class TcpListener:
    """One TCP address that is listened on; a name may be several sockets."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.address = _multiaddr(server.sockets[0].getsockname())

    @property
    def dialable(self) -> tuple[Multiaddr, ...]:
        return interface_addresses(self.address)

    def close(self) -> None:
        self._server.close()


class TcpTransport:
    """Dials and listens on ``/ip4|ip6|dns|dns4|dns6/.../tcp/...``; a name to dial is resolved before."""

    name: Final = "tcp"

    def __init__(self, config: Config) -> None:
        self._max_send_buffer = config.max_send_buffer
        self._read_buffer = _read_buffer_of(asyncio.get_running_loop())

    def supports(self, address: Multiaddr) -> bool:
        names = [name for name, _ in address.components]
        return len(names) == 2 and names[0] in FAMILIES and names[1] == "tcp"

    async def dial(self, address: Multiaddr, connected: Connected, *, named: Multiaddr | None = None) -> None:
        family, host, port = _endpoint(address)
        path = Path(self.name, address)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self._pipe(path, connected), host, port, family=family)

    async def listen(
        self, address: Multiaddr, connected: Connected, *, certificate: CertificateFiles | None = None
    ) -> TcpListener:
        refuse_certificate(address, certificate)
        family, host, port = _endpoint(address)
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: self._pipe(INBOUND, connected), host, port, family=family, start_serving=False
            )
        except UnicodeError as error:
            raise ListenError(address, f"{host!r} is not a host name") from error
        except OSError as error:
            # asyncio words a failed bind at length; the system's own words are enough.
            known = error.errno is not None and error.errno in errno.errorcode
            reason = os.strerror(error.errno or 0) if known else str(error)
            raise ListenError(address, reason.lower()) from error
        try:
            await server.start_serving()
            return TcpListener(server)
        except BaseException:
            server.close()  # cancelled: nobody would have it, and it would listen for ever
            raise

    async def close(self) -> None:
        """Nothing to end: sockets belong to listeners and pipes."""

    def _pipe(self, path: Path, connected: Connected) -> TcpPipe:
        return TcpPipe(self._read_buffer, self._max_send_buffer, path, connected)


def interface_addresses(address: Multiaddr) -> tuple[Multiaddr, ...]:
    """Where others can dial a TCP address that we listen on: itself, or for a wildcard every interface's, loopback last.

    Raises:
        ListenError: the system cannot list them.
    """
    (kind, host), (_, port) = address.components
    if host not in {"0.0.0.0", "::"}:
        return (address,)
    try:
        adapters = ifaddr.get_adapters()
    except OSError as error:
        raise ListenError(address, f"the interfaces of this machine cannot be listed: {error}") from error
    hosts = [
        str(ip.ip if ip.is_IPv4 else ip.ip[0])
        for adapter in adapters
        for ip in adapter.ips
        if ip.is_IPv4 == (kind == "ip4") and (ip.is_IPv4 or not ip.ip[2])  # a scoped address means nothing elsewhere
    ]
    hosts.sort(key=lambda host: ip_address(host).is_loopback)
    return tuple(Multiaddr.parse(f"/{kind}/{host}/tcp/{port}") for host in hosts)


def _raise(error: BaseException) -> None:
    raise error


def _endpoint(address: Multiaddr) -> tuple[int, str, int]:
    """The arguments for a socket; ``address`` is one that the transport supports."""
    (kind, host), (_, port) = address.components
    assert host is not None
    assert port is not None
    return FAMILIES[kind], host, int(port)


def _multiaddr(socket_address: tuple[str, int] | tuple[str, int, int, int]) -> Multiaddr:
    host, port = socket_address[:2]
    return Multiaddr.of_tcp(host.partition("%")[0], port)
