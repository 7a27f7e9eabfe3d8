"""Peers that are kept connected: when they are dialed, and how the connection stays open."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from support.clock import Clock
from support.network import MemoryTransport
from support.swarms import make_swarm
from support.waiting import begun

from stronghold_p2p import (
    AddressBook,
    Config,
    ConnectionClosed,
    ConnectionLost,
    DialAttempt,
    DialError,
    Event,
    KeepFailed,
    Keypair,
    Multiaddr,
    NotPermitted,
    Path,
    PeerId,
)
from stronghold_p2p.protocols.identify import IdentifyService
from stronghold_p2p.swarm.keeper import DIALS_AT_ONCE, PROTOCOL, Keeper
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.deadlines import Deadlines
from stronghold_p2p.transport.interfaces import InterfaceWatch

PEER, OTHER = (Keypair.generate().peer_id for _ in range(2))

ADDRESS = Multiaddr.parse("/memory/1")


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    return clock


# -- when it dials -------------------------------------------------------------------------------------------


class Host:
    """As much of a swarm as decides when to dial. A call of ``outcome`` is a dial."""

    def __init__(self, clock: Clock, config: Config | None = None, jitter: float = 0.5) -> None:
        self.config = config or Config()
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.clock = clock
        self.began = clock.now
        self.dials: list[tuple[PeerId, float]] = []
        """Each peer that was dialed, and when."""
        self.watched = False
        self.under_way = 0
        self.most_under_way = 0
        self.outcome: Callable[[], Awaitable[None]] = self.refuse
        self.failed: list[KeepFailed] = []
        self.keeper = Keeper(self._connect, self._emit, jitter=lambda: jitter)
        self.keeper.host = self  # type: ignore[assignment]
        self.keeper.start()

    @property
    def times(self) -> list[float]:
        return [round(when - self.began, 1) for _, when in self.dials]

    def connection(self, peer: PeerId) -> Connection | None:
        return None

    def watch_network(self, who: object) -> None:
        assert who is self.keeper
        self.watched = True

    def unwatch_network(self, who: object) -> None:
        assert who is self.keeper
        self.watched = False

    async def refuse(self) -> None:
        raise DialError(PEER, [DialAttempt(ADDRESS, ConnectionRefusedError(), 0.0)])

    async def _connect(self, peer: PeerId, deadline: float) -> Connection:
        self.dials.append((peer, self.clock.now))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.outcome()
        finally:
            self.under_way -= 1
        raise AssertionError("no test connects here")

    def _emit(self, event: Event) -> None:
        assert isinstance(event, KeepFailed)
        self.failed.append(event)


@pytest.fixture
async def host(clock: Clock) -> AsyncIterator[Host]:
    host = Host(clock)
    yield host
    await host.keeper.close()
    assert not [item for items in host.deadlines._ticks.values() for item in items]
    host.deadlines.close()


async def test_delays_grow_up_to_a_minute(host: Host, clock: Clock) -> None:
    host.keeper.keep(PEER)
    host.keeper.keep(PEER)
    await clock.advance(200, step=0.05)
    gaps = [round(later - earlier) for earlier, later in zip(host.times, host.times[1:], strict=False)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_peer_that_is_away_for_days_costs_a_dial_a_minute(host: Host, clock: Clock) -> None:
    host.keeper.keep(PEER)
    await clock.advance(2 * 86_400, step=5)
    assert len(host.dials) <= 2 * 1440 + 7
    (failed,) = host.failed
    assert failed.peer == PEER
    assert isinstance(failed.error, DialError)
    assert failed.retry_after == 1


@pytest.mark.parametrize(("jitter", "shortest"), [(0.0, 30), (0.999, 89)])
async def test_delays_differ_by_half(jitter: float, shortest: int, clock: Clock) -> None:
    host = Host(clock, jitter=jitter)
    host.keeper.keep(PEER)
    await clock.advance(600, step=0.25)
    last, before = host.times[-1], host.times[-2]
    assert shortest <= last - before <= shortest + 2
    await host.keeper.close()


async def test_a_thousand_peers_are_dialed_one_after_the_other(host: Host, clock: Clock) -> None:
    ends: list[asyncio.Future[None]] = []

    async def wait() -> None:
        ends.append(asyncio.get_running_loop().create_future())
        await ends[-1]
        await host.refuse()

    host.outcome = wait
    peers = [Keypair.generate().peer_id for _ in range(1000)]
    for peer in peers:
        host.keeper.keep(peer)
    await clock.settle()
    assert len(host.dials) == 1
    await clock.advance(0.5, step=0.01)
    assert len(host.dials) in range(15, 30)
    await clock.advance(10, step=0.01)
    assert len(host.dials) == host.under_way == DIALS_AT_ONCE
    while len(host.dials) < 1000:
        for end in ends:
            if not end.done():
                end.set_result(None)
        host.keeper._next_dial = 0.0
        await clock.advance(1, step=0.01)
    assert host.most_under_way == DIALS_AT_ONCE
    assert [peer for peer, _ in host.dials[:1000]] == peers  # those that failed wait behind


async def test_calls_can_be_dialed_beside(clock: Clock) -> None:
    host = Host(clock, Config(max_pending_outbound_connections=2))
    host.outcome = asyncio.Event().wait  # type: ignore[assignment]
    for _ in range(3):
        host.keeper.keep(Keypair.generate().peer_id)
    await clock.advance(5)
    assert host.under_way == 1
    await host.keeper.close()
    assert host.under_way == 0


async def test_a_change_of_the_network_ends_the_wait(host: Host, clock: Clock) -> None:
    host.keeper.keep(PEER)
    await clock.advance(100)
    before = len(host.dials)
    host.keeper.network_changed()
    await clock.advance(0.05, step=0.01)
    assert len(host.dials) == before + 1
    await clock.advance(1.5)
    assert len(host.dials) == before + 2  # delays begin anew


async def test_the_network_is_watched_while_somebody_is_kept(host: Host) -> None:
    watched = []
    for change in (host.keeper.keep, host.keeper.unkeep):
        for peer in (PEER, OTHER):
            change(peer)
            watched.append(host.watched)
    assert watched == [True, True, True, False]
    host.keeper.keep(PEER)
    await host.keeper.close()
    assert not host.watched


async def test_a_network_that_cannot_be_watched(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(who: object) -> None:
        raise OSError("no descriptors left")

    monkeypatch.setattr(host, "watch_network", refuse)
    host.keeper.keep(PEER)
    assert len(host.keeper._kept) == 1


async def test_new_addresses_are_dialed_soon_however_many_are_told(host: Host, clock: Clock) -> None:
    host.keeper.keep(PEER)
    await clock.advance(100)
    host.dials.clear()
    for _ in range(100):
        host.keeper.address_added(PEER)
        host.keeper.address_added(Keypair.generate().peer_id)
        await clock.advance(0.1, step=0.01)
    assert len(host.dials) in range(9, 12)


async def test_a_peer_that_we_refuse_costs_a_look_a_minute(host: Host, clock: Clock) -> None:
    async def refuse() -> None:
        raise NotPermitted(PEER, "it is banned")

    host.outcome = refuse
    host.keeper.keep(PEER)
    await clock.advance(3600)
    assert len(host.dials) < 70
    assert [type(event.error) for event in host.failed] == [NotPermitted]
    before = len(host.dials)
    host.keeper.retry(Keypair.generate().peer_id)
    host.keeper.retry(PEER)  # unbanned
    await clock.settle()
    assert len(host.dials) == before + 1


async def test_each_kind_of_failure_is_told_once(host: Host, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = [
        DialError(PEER),
        DialError(PEER),
        DialError(PEER, [DialAttempt(ADDRESS, TimeoutError("no answer"), 1.0)]),
        DialError(PEER, [DialAttempt(ADDRESS, TimeoutError("no answer"), 2.0)]),
        ZeroDivisionError("a fault of ours"),
    ]
    told = [errors[0], errors[2], errors[4]]

    async def fail() -> None:
        raise errors.pop(0) if len(errors) > 1 else errors[0]

    host.outcome = fail
    host.keeper.keep(PEER)
    await clock.advance(100)
    assert [event.error for event in host.failed] == told
    assert len(caplog.records) == 3


@pytest.mark.parametrize("seconds", [0, 0.5])
async def test_who_is_not_to_be_kept_any_more_is_not_dialed(host: Host, clock: Clock, seconds: float) -> None:
    """Neither while it is dialed, nor while it waits."""
    if not seconds:
        host.outcome = asyncio.Event().wait  # type: ignore[assignment]
    host.keeper.unkeep(PEER)
    host.keeper.keep(PEER)
    await clock.advance(seconds)
    host.keeper.unkeep(PEER)
    await clock.advance(100)
    assert len(host.dials) == 1
    assert host.under_way == 0
    host.outcome = host.refuse
    host.keeper.keep(PEER)
    await clock.settle()
    assert len(host.dials) == 2


async def test_who_is_not_to_be_kept_before_it_was_dialed(host: Host, clock: Clock) -> None:
    host.keeper.keep(Keypair.generate().peer_id)
    host.keeper.keep(PEER)  # which waits for its turn
    host.keeper.unkeep(PEER)
    await clock.advance(1)
    assert PEER not in [peer for peer, _ in host.dials]


# -- how the connection stays open -----------------------------------------------------------------------------


def no_monitor() -> socket.socket:
    raise OSError("of a network in memory")


class Node:
    """A swarm with a keeper."""

    def __init__(self, transport: MemoryTransport, config: Config | None = None, *, keeps: bool = True) -> None:
        self.events: list[Event] = []
        self.addresses = AddressBook()
        self.keeper = Keeper(self._connect, self.events.append, jitter=lambda: 0.5)
        self.swarm = make_swarm(
            (transport,),
            (IdentifyService(), *((self.keeper,) if keeps else ())),
            self.events,
            config=config,
            interfaces=InterfaceWatch(lister=list, monitor=no_monitor),
            addresses=self.addresses,
        )
        self.peer_id = self.swarm.peer_id
        if keeps:
            self.keeper.start()

    async def _connect(self, peer: PeerId, deadline: float) -> Connection:
        return await self.swarm.connect(peer, self.addresses.get(peer), deadline)

    @property
    def closed(self) -> list[Exception | None]:
        return [event.error for event in self.events if isinstance(event, ConnectionClosed)]


@asynccontextmanager
async def nodes(*, bob_keeps: bool = True) -> AsyncIterator[tuple[Node, Node]]:
    """Alice knows where Bob listens."""
    transport = MemoryTransport(range(100), Path("memory"))
    alice, bob = Node(transport), Node(transport, keeps=bob_keeps)
    await bob.swarm.listen(ADDRESS)
    alice.addresses.add(ADDRESS, bob.peer_id)
    try:
        yield alice, bob
    finally:
        await alice.keeper.close()
        await bob.keeper.close()
        await asyncio.gather(alice.swarm.close(), bob.swarm.close())


async def test_neither_side_closes_it_until_it_is_let_go(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        await clock.advance(1)
        ((connection,), (other_end,)) = alice.swarm.connections, bob.swarm.connections
        await clock.advance(100)
        (still,) = alice.swarm.connections
        assert still is connection
        assert connection.at_work
        assert not other_end.at_work  # of all that Bob has, it gives way first
        alice.keeper.unkeep(bob.peer_id)
        await clock.advance(21)
        assert not alice.swarm.connections
        assert alice.closed == bob.closed == [None]
        await clock.advance(100)
        assert not alice.swarm.connections


async def test_a_peer_is_kept_as_long_as_anybody_wants_it(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        for who in (None, "approver", "approver"):
            alice.keeper.keep(bob.peer_id, who)
        alice.keeper.unkeep(bob.peer_id, "approver")
        alice.keeper.unkeep(bob.peer_id, "approver")
        await clock.advance(60)
        assert len(alice.swarm.connections) == 1
        alice.keeper.unkeep(bob.peer_id)
        await clock.advance(21)
        assert not alice.swarm.connections


async def test_a_connection_that_is_there_is_taken(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        await alice.swarm.connect(bob.peer_id, (ADDRESS,), clock.now + 10)
        await clock.advance(5)
        bob.keeper.keep(alice.peer_id)  # which does not even listen
        await clock.advance(100)
        assert len(alice.swarm.connections) == 1


async def test_both_may_keep_each_other(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        bob.keeper.keep(alice.peer_id)
        await clock.advance(60)
        assert len(alice.swarm.connections) == 1
        alice.keeper.unkeep(bob.peer_id)
        await clock.advance(60)
        assert len(alice.swarm.connections) == 1
        bob.keeper.unkeep(alice.peer_id)
        await clock.advance(21)
        assert not alice.swarm.connections


async def test_a_remote_that_closes_what_is_idle_is_dialed_again_ever_more_seldom(clock: Clock) -> None:
    """As rust-libp2p does after as long."""
    async with nodes(bob_keeps=False) as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        await clock.advance(60)
        assert len(alice.closed) == 4  # after 10 s each, and 1, 2, 4 and 8 s in between
        await clock.advance(600)
        assert len(alice.closed) in range(12, 16)
        assert not [event for event in alice.events if isinstance(event, KeepFailed)]


@pytest.mark.parametrize("uptime", [6, 100])
async def test_a_remote_that_restarts_again_and_again_is_connected_within_seconds(clock: Clock, uptime: float) -> None:
    async with nodes() as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        for _ in range(4):
            await clock.advance(uptime)
            await bob.swarm.disconnect(alice.peer_id)
            await clock.advance(2)
            assert len(alice.swarm.connections) == 1


async def test_a_remote_that_crashes_at_once_is_dialed_ever_more_seldom(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        for _ in range(100):
            await clock.advance(1)
            await bob.swarm.disconnect(alice.peer_id)
        assert len(alice.closed) < 10


async def test_a_connection_from_an_address_that_is_gone_is_made_anew_at_once(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        await clock.advance(1)
        (first,) = alice.swarm.connections
        first.abort(ConnectionLost("the local address is gone"))
        alice.keeper.network_changed()
        await clock.advance(0.1, step=0.01)
        (second,) = alice.swarm.connections
        assert second is not first
        await clock.advance(60)
        assert alice.swarm.connections == (second,)


async def test_a_dead_path_is_noticed_and_dialed_again(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        await clock.advance(100)
        ((first,), (other_end,)) = alice.swarm.connections, bob.swarm.connections
        for connection in (first, other_end):
            connection._pipe.dead = True  # type: ignore[attr-defined]
        await clock.advance(18)
        assert isinstance(alice.closed[0], ConnectionLost)
        (second,) = alice.swarm.connections
        assert second is not first
        await clock.advance(60)
        assert alice.swarm.connections == (second,)


async def test_closing_does_not_wait_for_who_is_kept(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        bob.keeper.keep(alice.peer_id)
        await clock.advance(5)
        await bob.keeper.close()
        closing = await begun(bob.swarm.close())
        await clock.settle()
        assert closing.done()


async def test_a_remote_holds_a_connection_by_one_stream(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        connection = await alice.swarm.connect(bob.peer_id, (ADDRESS,), clock.now + 10)
        await clock.advance(1)
        first = await connection.open_stream(PROTOCOL)
        await first.negotiated()
        second = await connection.open_stream(PROTOCOL)
        with pytest.raises(Exception, match="reset"):
            await second.read()
        await first.write(b"what is said here is dropped")
        (other_end,) = bob.swarm.connections
        connection.ignore_for_keep_alive(first._substream)
        connection.keep()
        await clock.advance(60)
        assert not other_end.closing
        await first.close()
        await clock.advance(21)
        assert bob.closed == [None]


async def test_a_stream_that_a_remote_resets_is_opened_again_when_it_tells_of_itself(clock: Clock) -> None:
    async with nodes() as (alice, bob):
        alice.keeper.keep(bob.peer_id)
        await clock.advance(1)
        (stream,) = bob.keeper._holds.values()
        stream.reset()
        bob.keeper._holds.clear()
        bob.swarm.handle("/another/1.0.0", lambda connection, substream: None)
        bob.swarm.offer_changed()
        await clock.advance(1)
        assert len(bob.keeper._holds) == 1


def test_a_keeper_that_was_never_started() -> None:
    keeper = Keeper(lambda peer, deadline: None, lambda event: None)  # type: ignore[arg-type, return-value]
    keeper.keep(PEER)
    keeper.unkeep(PEER)
    asyncio.run(keeper.close())
