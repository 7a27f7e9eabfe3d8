"""A peer by hand, for attackers: it shakes hands as it should, and then sends what no peer of this library would.

An attacker must be cheaper than its victim. So what it sends is made once, and what comes is read only where it matters.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from struct import Struct
from typing import NamedTuple, NoReturn, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from stronghold_p2p import Keypair, StrongholdError
from stronghold_p2p.encoding import varint
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.noise import NoiseIdentity, NoiseTransport
from stronghold_p2p.wire.noise_xx import NoiseKey
from stronghold_p2p.wire.upgrade import MUXERS, Upgrade
from stronghold_p2p.wire.yamux import HEADER, HEADER_SIZE, Flag, FrameType

__all__ = [
    "UPGRADE_REQUEST",
    "Connection",
    "Frame",
    "Streams",
    "Target",
    "Tcp",
    "WebSocket",
    "again",
    "frame",
    "lines",
    "masked",
    "message",
]

PIECE = 256 * 1024
"""Bytes of what is sent at once."""


class Target(NamedTuple):
    """Where the victim listens on ::1, and the protocol of its requests; where on 127.0.0.1; and for WebSockets over TLS, if it
    does."""

    tcp: tuple[str, int]
    websocket: tuple[str, int]
    protocol: str
    ipv4: tuple[str, int]
    tls: tuple[str, int] | None = None


class Frame(NamedTuple):
    """A frame that came."""

    kind: int
    flags: int
    stream_id: int
    length: int
    body: bytes

    @property
    def ends(self) -> bool:
        """The victim sends no more on the stream."""
        return bool(self.flags & (Flag.FIN | Flag.RST))


def frame(kind: FrameType, flags: int = 0, stream_id: int = 0, *, length: int = 0, body: bytes = b"") -> bytes:
    """One to send."""
    return HEADER.pack(0, kind, flags, stream_id, length or len(body)) + body


def lines(protocol: str) -> bytes:
    """With which a stream begins."""
    return multistream.HEADER + multistream.encode_line(protocol)


def message(body: bytes) -> bytes:
    """``body`` behind its length."""
    return varint.encode(len(body)) + body


async def again(work: Callable[[], Awaitable[object]], pause: float = 0.1) -> NoReturn:
    """Whenever the victim has closed the connection, or refuses it, the attacker is back after ``pause`` seconds."""
    while True:
        with suppress(OSError, StrongholdError):
            await work()
        await asyncio.sleep(pause)


class Streams:
    """The same frames on one new stream after the other, so many streams a piece (None: as many as fit): only their ids
    are written anew, all at once."""

    def __init__(self, frames: Sequence[bytes], count: int | None = None) -> None:
        unit = b"".join(frames)
        self._count = count or max(1, PIECE // len(unit))
        self._piece = bytearray(unit * self._count)
        self._stride = len(unit)
        self._ids_at = [sum(map(len, frames[:index])) + 4 for index in range(len(frames))]
        self._ids = Struct(f">{self._count}I")
        self._next = 1

    def __call__(self) -> bytearray:
        """The next piece, which is valid until the one after it."""
        end = self._next + 2 * self._count
        ids = self._ids.pack(*range(self._next, end, 2))
        self._next = end
        for start in self._ids_at:
            for byte in range(4):
                self._piece[start + byte :: self._stride] = ids[byte::4]
        return self._piece


class Tcp:
    """A TCP connection. Nothing is read before it is asked for."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    @classmethod
    async def open(cls, target: Target, source: str | None = None, *, at: tuple[str, int] | None = None) -> Self:
        """``source``: an address of 127/8, which is a network of its own; None: ::1. ``at``: where on ::1; None: for TCP."""
        if source is not None:
            return cls(await _connect(target.ipv4, socket.AF_INET, source))
        return cls(await _connect(at or target.tcp))

    async def send(self, data: bytes | bytearray) -> None:
        await self.send_raw(data)

    async def send_raw(self, data: bytes | bytearray) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """What comes, at least a byte. Raises ConnectionError at the end."""
        data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        if not data:
            raise ConnectionResetError("the victim has closed the connection")
        return data

    async def discard(self) -> None:
        """Reads until the end, as cheaply as can be."""
        with suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(self._socket, 65536):
                pass

    async def flood(self, make: Callable[[], bytes | bytearray]) -> None:
        """Sends one piece after the other, as fast as the victim takes them, and reads its replies unseen."""
        reading = asyncio.create_task(self.discard())
        try:
            while not reading.done():
                await self.send_raw(make())
        finally:
            reading.cancel()

    def close(self) -> None:
        self._socket.close()


class WebSocket(Tcp):
    """A WebSocket; each piece is one frame. Its mask is zero, which is as good as any."""

    _received = b""

    @classmethod
    async def open(cls, target: Target, source: str | None = None, *, at: tuple[str, int] | None = None) -> Self:
        assert source is None
        pipe = cls(await _connect(at or target.websocket))
        await pipe.send_raw(UPGRADE_REQUEST)
        while b"\r\n\r\n" not in pipe._received:
            pipe._received += await Tcp.receive(pipe)
        pipe._received = pipe._received.partition(b"\r\n\r\n")[2]
        return pipe

    async def send(self, data: bytes | bytearray) -> None:
        await self.send_raw(masked(data))

    async def receive(self) -> bytes:
        while len(self._received) < 4 or len(self._received) < self._end():
            self._received += await super().receive()
        start = 4 if self._received[1] == 126 else 2
        end = self._end()
        payload, self._received = self._received[start:end], self._received[end:]
        return payload

    def _end(self) -> int:
        """Of the first frame: during a handshake no victim sends one over 64 KiB."""
        length = self._received[1]
        return 4 + int.from_bytes(self._received[2:4]) if length == 126 else 2 + length


UPGRADE_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: [::1]\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(payload: bytes | bytearray, opcode: int = 2) -> bytes:
    """A frame as a client sends it (RFC 6455, section 5.2); opcode 2 is binary."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8)
    return head + bytes(4) + payload


class Connection:
    """A multiplexed connection."""

    def __init__(self, pipe: Tcp, noise: NoiseTransport, early: list[bytes]) -> None:
        self.pipe = pipe
        self._noise = noise
        self._received = bytearray(b"".join(early))

    @classmethod
    async def dial(
        cls,
        target: Target,
        transport: type[Tcp] = Tcp,
        *,
        keypair: Keypair | None = None,
        source: str | None = None,
    ) -> Connection:
        """``keypair``: None is a new one; ``source``: as for :meth:`Tcp.open`."""
        pipe = await transport.open(target, source)
        try:
            identity = NoiseIdentity(keypair or Keypair.generate(), X25519PrivateKey.generate(), MUXERS)
            upgrade = Upgrade(identity, initiator=True, ephemeral=NoiseKey(X25519PrivateKey.generate()))
            await pipe.send(upgrade.data_to_send())
            while not upgrade.done:
                upgrade.receive_data(await pipe.receive())
                await pipe.send(upgrade.data_to_send())
        except BaseException:
            pipe.close()
            raise
        return cls(pipe, upgrade.noise, upgrade.early)

    def close(self) -> None:
        self.pipe.close()

    def encrypt(self, frames: bytes | bytearray) -> bytes | bytearray:
        """What travels, in Noise messages that are as long as they may be."""
        return bytes(self._noise.encrypt([frames]))

    async def send(self, frames: bytes | bytearray) -> None:
        await self.pipe.send(self.encrypt(frames))

    async def flood(self, make: Callable[[], bytes | bytearray]) -> None:
        """As the pipe's, encrypted."""
        await self.pipe.flood(lambda: self.encrypt(make()))

    async def frames(self) -> AsyncIterator[Frame]:
        """What comes, until the victim closes the connection, which is a ConnectionError."""
        while True:
            _, kind, flags, stream_id, length = HEADER.unpack(await self._read(HEADER_SIZE))
            body = await self._read(length) if kind == FrameType.DATA else b""
            yield Frame(kind, flags, stream_id, length, body)

    async def _read(self, size: int) -> bytes:
        while len(self._received) < size:
            self._received += b"".join(self._noise.decrypt(await self.pipe.receive()))
            while self._noise.unread:
                self._received += b"".join(self._noise.decrypt())
        data = bytes(self._received[:size])
        del self._received[:size]
        return data


async def _connect(
    address: tuple[str, int], family: socket.AddressFamily = socket.AF_INET6, source: str | None = None
) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        if source is not None:
            connected.bind((source, 0))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connected, address)
    except BaseException:
        connected.close()
        raise
    return connected
