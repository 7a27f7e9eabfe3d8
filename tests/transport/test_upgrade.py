"""The upgrade over a pipe: what it leads to, and how it ends when it does not."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from support.connections import ECHO, Host, connected
from support.memory import MemoryPipe, memory_pipes
from support.remote import lines
from support.waiting import until
from support.yamux import data

from stronghold_p2p import Config, Direction, HandshakeError, Keypair, LimitExceeded, PeerIdMismatch, StrongholdError
from stronghold_p2p.transport.pipe import BytePipe, NullReceiver
from stronghold_p2p.transport.upgrade import PipeUpgrade
from stronghold_p2p.wire.noise import NoiseIdentity
from stronghold_p2p.wire.noise_xx import NoiseKey
from stronghold_p2p.wire.upgrade import MUXERS, Upgrade
from stronghold_p2p.wire.yamux import Flag


class Upgrading:
    """A dialer and a listener on one pipe."""

    def __init__(self, *, expected: Keypair | None = None, same: bool = False) -> None:
        self.dialer, self.listener = Host(Config()), Host(Config())
        if same:
            self.dialer.keypair = self.listener.keypair
        expected_peer = (expected or self.listener.keypair).peer_id
        self.upgrades: list[PipeUpgrade] = []
        self.pipes = memory_pipes(
            lambda pipe: self._start(self.dialer.upgrade(pipe, expected_peer=expected_peer)),
            lambda pipe: self._start(self.listener.upgrade(pipe, expected_peer=None)),
        )

    def _start(self, upgrade: PipeUpgrade) -> PipeUpgrade:
        self.upgrades.append(upgrade)
        return upgrade

    async def errors(self) -> list[type[BaseException]]:
        outcomes = await asyncio.gather(*(upgrade.finished for upgrade in self.upgrades), return_exceptions=True)
        return [type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)]


async def test_another_identity_than_the_one_dialed() -> None:
    expected = Keypair.generate()
    upgrading = Upgrading(expected=expected)
    assert await upgrading.errors() == [PeerIdMismatch, HandshakeError]
    error = upgrading.upgrades[0].finished.exception()
    assert isinstance(error, PeerIdMismatch)
    assert error.expected == expected.peer_id
    assert error.actual == upgrading.listener.keypair.peer_id


async def test_our_own_identity() -> None:
    assert await Upgrading(same=True).errors() == [HandshakeError, HandshakeError]


async def test_a_pipe_that_ends_in_the_handshake() -> None:
    upgrading = Upgrading()
    upgrading.pipes[0].abort()
    assert await upgrading.errors() == [HandshakeError, HandshakeError]
    error = upgrading.upgrades[1].finished.exception()
    assert isinstance(error, HandshakeError)
    assert isinstance(error.__cause__, ConnectionResetError)


async def test_a_handshake_that_stalls() -> None:
    upgrading = Upgrading()
    for upgrade in upgrading.upgrades:
        upgrade.expire()
        upgrade.expire()
    assert await upgrading.errors() == [HandshakeError, HandshakeError]


async def test_cancelling_aborts_the_pipe() -> None:
    upgrading = Upgrading()
    upgrading.upgrades[0].finished.cancel()
    assert await upgrading.errors() == [asyncio.CancelledError, HandshakeError]


async def test_a_connection_that_is_not_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LimitExceeded("max_connections")

    upgrading = Upgrading()
    monkeypatch.setattr(upgrading.upgrades[1], "_establish", refuse)
    dialed = await upgrading.upgrades[0].finished
    with pytest.raises(LimitExceeded):
        await upgrading.upgrades[1].finished
    await dialed.closed


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13/multistream/1.0.0\n\x0a/tls/1.0.0X",
        b"\x13/multistream/1.0.0\n" + b"\x0b/tls/1.0.0\n" * 17,
        b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x13/multistream/1.0.0\n\x07/noise\n\0\0",
        b"\x13/multistream/1.0.0\n\x07/noise\n\0\x1f" + bytes(31),
        b"\x13/multistream/1.0.0\n\x07/noise\n\0\x20" + bytes(32),
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff",
        b"\x13/multistream/1.0.0\n\x07/noise\n\0\x21" + bytes([9] * 33),
    ],
    ids=["http", "newline", "proposals", "varint", "empty", "short", "low-order", "long", "payload"],
)
@pytest.mark.parametrize("cut", [None, 1])
async def test_a_first_flight_that_is_none(said: bytes, cut: int | None) -> None:
    upgrades: list[PipeUpgrade] = []

    def listen(pipe: BytePipe) -> PipeUpgrade:
        upgrades.append(Host(Config()).upgrade(pipe, expected_peer=None))
        return upgrades[0]

    dialer, _ = memory_pipes(lambda _: NullReceiver(), listen, segment=cut)
    dialer.write(said)
    with pytest.raises(StrongholdError):
        await upgrades[0].finished
    upgrades[0].data_received(memoryview(b"more, which is ignored"))


async def test_frames_that_come_with_the_end_of_the_handshake() -> None:
    """The dialer's last message, and behind it in the same read its first frames."""
    upgrades: list[PipeUpgrade] = []
    alice, bob = Host(Config()), Host(Config())

    def start(host: Host, expected: Host | None, pipe: BytePipe) -> PipeUpgrade:
        upgrades.append(host.upgrade(pipe, expected_peer=expected.keypair.peer_id if expected else None))
        return upgrades[-1]

    pipes = memory_pipes(partial(start, alice, bob), partial(start, bob, None))
    held = hold_back(pipes[0])
    dialed = await upgrades[0].finished
    frame = bytes(data(1, lines(ECHO) + b"early", Flag.SYN))
    pipes[0].write(alice.noise.encrypt([frame]))
    held()
    accepted = await upgrades[1].finished
    inbound = await bob.inbound.get()
    assert await inbound.read() == b"early"
    dialed.abort()
    await asyncio.gather(dialed.closed, accepted.closed)


class Recorder:
    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: memoryview) -> None:
        self.data += data

    def pipe_closed(self, error: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


async def complete_dialer() -> tuple[Host, PipeUpgrade]:
    """A dialer whose upgrade is complete, in the turn of the loop in which it is."""
    host, recorder, made = Host(Config()), Recorder(), list[PipeUpgrade]()

    def start(pipe: BytePipe) -> PipeUpgrade:
        made.append(host.upgrade(pipe, expected_peer=None))
        return made[0]

    memory_pipes(start, lambda _: recorder)
    await until(lambda: recorder.data)
    identity = NoiseIdentity(Keypair.generate(), X25519PrivateKey.generate(), MUXERS)
    listener = Upgrade(identity, initiator=False, ephemeral=NoiseKey(X25519PrivateKey.generate()))
    listener.receive_data(recorder.data)
    made[0].data_received(memoryview(listener.data_to_send()))
    assert not made[0].finished.done()
    return host, made[0]


async def test_what_comes_before_a_dialer_has_its_connection_is_read_by_that() -> None:
    host, upgrade = await complete_dialer()
    upgrade.data_received(memoryview(b"\0\x20"))
    upgrade.data_received(memoryview(bytes(32)))
    dialed = await upgrade.finished
    await dialed.closed
    assert [(closed, type(error)) for closed, error in host.closed] == [(dialed, HandshakeError)]


async def test_a_pipe_that_ends_before_a_dialer_has_its_connection() -> None:
    _, upgrade = await complete_dialer()
    upgrade.pipe_closed(None)
    with pytest.raises(HandshakeError, match="ended"):
        await upgrade.finished


@pytest.mark.parametrize("dialer_initiates", [True, False])
async def test_role_expected_peer_and_direction_are_three_things(dialer_initiates: bool) -> None:
    """After a hole punch the one who dialed may have to respond, and both know whom they expect."""
    hosts = Host(Config()), Host(Config())
    upgrades: list[PipeUpgrade] = []

    def start(host: Host, other: Host, initiator: bool, pipe: BytePipe) -> PipeUpgrade:
        upgrades.append(host.upgrade(pipe, expected_peer=other.keypair.peer_id, initiator=initiator))
        return upgrades[-1]

    alice, bob = hosts
    initiating, responding = (partial(start, alice, bob), partial(start, bob, alice))
    if dialer_initiates:
        memory_pipes(partial(initiating, True), partial(responding, False))
    else:
        memory_pipes(partial(initiating, False), partial(responding, True))
    dialed, accepted = [await upgrade.finished for upgrade in upgrades]
    assert (dialed.direction, accepted.direction) == (Direction.OUTBOUND, Direction.INBOUND)
    assert dialed.path.dialed is not None
    assert accepted.path.dialed is None
    stream = await dialed.open_stream(ECHO)
    await stream.write(b"hello")
    assert await (await bob.inbound.get()).read() == b"hello"
    dialed.abort()
    await asyncio.gather(dialed.closed, accepted.closed)


@pytest.mark.parametrize("initiator", [True, False])
async def test_either_role_may_expect_a_peer(initiator: bool) -> None:
    alice, bob, carol = Host(Config()), Host(Config()), Host(Config())
    upgrades: list[PipeUpgrade] = []

    def start(host: Host, expected: Host, role: bool, pipe: BytePipe) -> PipeUpgrade:
        upgrades.append(host.upgrade(pipe, expected_peer=expected.keypair.peer_id, initiator=role))
        return upgrades[-1]

    memory_pipes(partial(start, alice, carol, initiator), partial(start, bob, alice, not initiator))
    with pytest.raises(PeerIdMismatch):
        await upgrades[0].finished
    upgrades[1].finished.cancel()


def hold_back(pipe: MemoryPipe) -> partial[None]:
    """Keeps what ``pipe`` writes from now on; call what is returned to let it go at once."""
    kept = bytearray()
    write = pipe.write
    pipe.write = kept.extend  # type: ignore[assignment, method-assign]
    # The first flight has been written when the pipe was made.

    def release() -> None:
        pipe.write = write  # type: ignore[method-assign]
        write(bytes(kept))

    return partial(release)


async def test_segments_of_one_byte() -> None:
    async with connected(segment=1) as pair:
        await pair.streams()
