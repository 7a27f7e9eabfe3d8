"""A peer by hand: it shakes hands as it should, and then sends whatever a test has it send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from stronghold_p2p import Keypair, Multiaddr, PeerId
from stronghold_p2p.protocols.identify import message as identify
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.noise import NoiseIdentity
from stronghold_p2p.wire.noise_xx import NoiseKey
from stronghold_p2p.wire.upgrade import MUXERS, Upgrade
from stronghold_p2p.wire.yamux import HEADER, HEADER_SIZE, Flag, FrameType

from .noise import decrypted
from .yamux import Frame, data

__all__ = ["JSON", "Remote", "RemoteListener", "lines", "listening"]

JSON: Final = "/stronghold-p2p/1.0.0"


def lines(protocol: str) -> bytes:
    """With which a dialer opens a stream, and which the listener echoes."""
    return multistream.HEADER + multistream.encode_line(protocol)


class Remote:
    """One end of a TCP connection.

    A stream that the library opens to identify us is answered, if ``protocols`` says with what, else reset; the test
    does not see it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keypair: Keypair) -> None:
        self.keypair = keypair
        self.peer: PeerId
        self.protocols: tuple[str, ...] | None = None
        self._reader = reader
        self._writer = writer
        self._upgrade: Upgrade
        self._plaintext = bytearray()
        self._identify_streams: set[int] = set()

    @classmethod
    async def connect(cls, address: Multiaddr, keypair: Keypair | None = None) -> Remote:
        """Over TCP alone."""
        (_, host), (_, port) = address.without_peer().components
        reader, writer = await asyncio.open_connection(host, port)
        return cls(reader, writer, keypair or Keypair.generate())

    @classmethod
    async def dial(cls, address: Multiaddr, keypair: Keypair | None = None) -> Remote:
        """As far as a multiplexed connection."""
        remote = await cls.connect(address, keypair)
        await remote.upgrade(initiator=True)
        return remote

    def noise_identity(self) -> NoiseIdentity:
        """A new one."""
        return NoiseIdentity(self.keypair, X25519PrivateKey.generate(), MUXERS)

    async def greet(self) -> None:
        """The first word of an upgrade, and the answer: it has begun at the other end."""
        self.send_raw(lines("/noise"))
        assert await self._reader.readexactly(len(lines("/noise"))) == lines("/noise")

    async def upgrade(self, *, initiator: bool, identity: NoiseIdentity | None = None) -> None:
        """``identity``: what it shows, if that is not its own."""
        identity = identity or self.noise_identity()
        self._upgrade = upgrade = Upgrade(
            identity, initiator=initiator, ephemeral=NoiseKey(X25519PrivateKey.generate())
        )
        self.send_raw(upgrade.data_to_send())
        while not upgrade.done:
            received = await self._reader.read(65536)
            assert received, "the upgrade was refused"
            upgrade.receive_data(received)
            self.send_raw(upgrade.data_to_send())
        self.peer = upgrade.remote_peer
        self._plaintext += b"".join(upgrade.early)

    def send(self, *frames: Frame | bytes) -> None:
        """Encrypts and writes all of it at once."""
        self.send_raw(self.encrypt(*frames))

    def send_raw(self, wire: bytes | bytearray) -> None:
        self._writer.write(wire)

    def encrypt(self, *frames: Frame | bytes) -> bytes | bytearray:
        """What ``send`` writes."""
        return bytes(self._upgrade.noise.encrypt([bytes(frame) for frame in frames]))

    async def frame(self) -> Frame | None:
        """The next frame; None at the connection's end."""
        while True:
            header = await self._read(HEADER_SIZE)
            if header is None:
                return None
            version, kind, flags, stream_id, length = HEADER.unpack(header)
            assert version == 0
            body = (await self._read(length)) if kind == FrameType.DATA else b""
            if body is None:
                return None
            frame = Frame(kind, flags, stream_id, length, body)
            if not self._is_identify(frame):
                return frame

    async def frames_of(self, stream_id: int) -> list[Frame]:
        """What comes on a stream until it ends, or the connection does."""
        frames = []
        while frame := await self.frame():
            if frame.stream_id == stream_id:
                frames.append(frame)
                if frame.flags & (Flag.FIN | Flag.RST):
                    break
        return frames

    async def rest(self) -> list[Frame]:
        """All that still comes until the library ends the connection."""
        frames = []
        while frame := await self.frame():
            frames.append(frame)
        return frames

    async def raw_rest(self) -> bytes:
        """All bytes that still come until the library ends the connection."""
        received = b""
        with suppress(ConnectionError):
            while chunk := await self._reader.read(65536):
                received += chunk
        return received

    async def request(self, stream_id: int, body: bytes, *, protocol: str = JSON) -> bytes:
        """Sends a short request in one flight; returns what came back until FIN or RST, without the lines."""
        assert len(body) < 128
        self.send(data(stream_id, lines(protocol) + bytes((len(body),)) + body, Flag.SYN))
        received = b"".join(frame.body for frame in await self.frames_of(stream_id))
        return received.removeprefix(lines(protocol))

    def abort(self) -> None:
        """Ends the connection as a crash does."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self, size: int) -> bytes | None:
        while len(self._plaintext) < size:
            try:
                received = await self._reader.read(65536)
            except ConnectionError:
                return None
            if not received:
                return None
            self._plaintext += b"".join(decrypted(self._upgrade.noise, received))
        wanted = bytes(self._plaintext[:size])
        del self._plaintext[:size]
        return wanted

    def _is_identify(self, frame: Frame) -> bool:
        if frame.flags & Flag.SYN and lines(identify.PROTOCOL) in frame.body:
            self._identify_streams.add(frame.stream_id)
            if self.protocols is None:
                self.send(data(frame.stream_id, flags=Flag.RST))
            else:
                message = identify.encode(
                    self.keypair.public_key,
                    protocols=self.protocols,
                    listen_addresses=(),
                    record=None,
                    observed_address=Multiaddr.parse("/ip4/127.0.0.1/tcp/1"),
                )
                self.send(
                    data(frame.stream_id, lines(identify.PROTOCOL) + message, Flag.ACK),
                    data(frame.stream_id, flags=Flag.FIN),
                )
        return frame.stream_id in self._identify_streams


class RemoteListener:
    """Takes connections; the test upgrades them, or does not."""

    def __init__(self, keypair: Keypair) -> None:
        self.keypair = keypair
        self.address: Multiaddr
        self._accepted: asyncio.Queue[Remote] = asyncio.Queue()

    @property
    def waiting(self) -> int:
        """Connections that wait to be accepted."""
        return self._accepted.qsize()

    async def accept(self) -> Remote:
        """The next connection, as TCP brought it."""
        return await self._accepted.get()

    async def accept_upgraded(self, protocols: Iterable[str] | None = None) -> Remote:
        remote = await self.accept()
        remote.protocols = None if protocols is None else tuple(protocols)
        await remote.upgrade(initiator=False)
        return remote

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.put_nowait(Remote(reader, writer, self.keypair))


@asynccontextmanager
async def listening(**arguments: Any) -> AsyncIterator[RemoteListener]:
    """A listener on a port of loopback, at ``address``."""
    listener = RemoteListener(Keypair.generate(), **arguments)
    server = await asyncio.start_server(listener._connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    listener.address = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}").with_peer(listener.keypair.peer_id)
    try:
        yield listener
    finally:
        server.close()
