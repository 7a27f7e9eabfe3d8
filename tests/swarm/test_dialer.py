"""Dials without a socket, on a clock that stands still: what starts when, who wins, who is told what."""

from __future__ import annotations

import asyncio
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
from support.connections import Host
from support.dialing import LIMIT, NAME, ONE, QUIC, REFUSED, THREE, TWO, World, a_world
from support.waiting import settled, turns, until

from stronghold_p2p import (
    AddressSource,
    ClosedError,
    Config,
    DialError,
    HandshakeError,
    InvalidAddress,
    Keypair,
    LimitExceeded,
    Multiaddr,
    NotPermitted,
    PeerId,
    PeerIdMismatch,
)
from stronghold_p2p.firewall.admission import AdmissionRules
from stronghold_p2p.swarm.dialer import MAX_FOUND, UNANSWERED
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.pipe import BytePipe, PipeReceiver
from stronghold_p2p.transport.transport import DirectDial
from stronghold_p2p.transport.upgrade import PipeUpgrade

# -- the race ------------------------------------------------------------------------------------------


def watch_upgrades(world: World) -> list[PipeUpgrade]:
    """Those that are begun from now on."""
    made: list[PipeUpgrade] = []
    upgrade = world.dialer.upgrade

    def watched(*arguments: Any, **options: Any) -> PipeUpgrade:
        made.append(upgrade(*arguments, **options))
        return made[-1]

    world.dialer.upgrade = watched
    return made


async def test_one_address_takes_one_task(world: World) -> None:
    world.network.answers[ONE] = world.answer
    before = asyncio.all_tasks()
    dial = world.dial(ONE)
    assert len(asyncio.all_tasks() - before) == 1
    connection = await dial.outcome(world.clock.now + LIMIT)
    assert connection.peer == world.peer
    assert world.upgrades == [(ONE, True)]
    assert world.dialer.dials == {}


async def test_each_address_has_its_lead_on_the_next(world: World) -> None:
    call = world.call(ONE, TWO, THREE)
    await world.clock.advance(2.0)
    assert world.started == {ONE: 0.0, TWO: 0.25, THREE: 0.5}
    assert not call.done()


async def test_addresses_are_ranked_by_what_is_known_of_them(world: World) -> None:
    world.know(ONE, TWO, THREE)
    world.book.failed(world.peer, Multiaddr.parse(ONE))
    world.book.succeeded(world.peer, Multiaddr.parse(THREE))
    world.call(ONE, TWO, THREE)
    await world.clock.advance(2.0)
    assert world.started == {THREE: 0.0, TWO: 0.25, ONE: 0.5}


async def test_with_none_in_flight_the_next_starts_at_once(world: World) -> None:
    world.network.answers |= {ONE: REFUSED, TWO: REFUSED}
    world.call(ONE, TWO, THREE)
    await settled()
    assert world.started == {ONE: 0.0, TWO: 0.0, THREE: 0.0}


async def test_a_failure_does_not_shorten_the_lead_of_what_is_in_flight(world: World) -> None:
    world.network.answers[TWO] = REFUSED
    world.call(ONE, TWO, THREE)
    await world.clock.advance(0.25)
    assert list(world.started) == [ONE, TWO]
    await world.clock.advance(0.25)
    assert world.started == {ONE: 0.0, TWO: 0.25, THREE: 0.5}


async def test_no_more_at_once_than_there_may_be() -> None:
    addresses = [f"/ip4/1.2.3.{number}/tcp/1" for number in range(6)]
    async with a_world(max_dials_per_peer=3) as world:
        world.call(*addresses)
        await world.clock.advance(5.0)
        assert list(world.started) == addresses[:3]
        await world.clock.advance(LIMIT - 5.0)  # the first one has had its time
        assert world.network.given_up == addresses[:1]
        await world.clock.advance(0.5)
        assert list(world.started) == addresses
        assert world.network.given_up == addresses[:3]


async def test_the_first_handshake_wins_and_the_others_are_closed(world: World) -> None:
    world.network.answers |= {ONE: world.silence, THREE: world.answer}
    call = world.call(ONE, TWO, THREE)
    await world.clock.advance(0.5)
    connection = await call
    assert connection.path.dialed == Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")  # as the pipe says
    assert [dialed for dialed, _ in world.upgrades] == [ONE, THREE]
    await until(lambda: world.network.given_up == [TWO])
    silent, _ = world.network.pipes[0]
    assert silent._closed
    assert not world.network.pipes[1][0]._closed
    assert world.dialer.dials == {}


@pytest.mark.parametrize("moment", range(8))
async def test_a_peer_that_comes_by_itself_while_it_is_dialed_is_connected_once(world: World, moment: int) -> None:
    """Also if it was reached in that very turn of the loop."""
    world.network.answers |= {ONE: world.answer, TWO: world.answer}
    theirs = await world.call(ONE)
    made = watch_upgrades(world)
    call = world.call(TWO)
    await turns(moment)
    world.dialer.peer_connected(theirs)
    connection = await call
    await settled()
    if connection is theirs:
        assert all(one.finished.cancelled() for one in made)
    else:
        assert [one.finished.result() for one in made] == [connection]


async def test_another_identity_does_not_end_the_race(world: World) -> None:
    stranger = Host(Config())
    world.network.answers |= {ONE: partial(stranger.upgrade, expected_peer=None), TWO: world.answer}
    connection = await world.call(ONE, TWO)
    assert connection.peer == world.peer
    assert [dialed for dialed, _ in world.upgrades] == [ONE, TWO]
    stranger.deadlines.close()


async def test_what_is_in_flight_when_an_address_of_ours_is_gone_is_dialed_anew(world: World) -> None:
    """What was sent from it is never answered. What has failed, or is not due, stays as it is."""
    world.network.answers[TWO] = REFUSED
    call = world.call(ONE, TWO, THREE)
    await world.clock.advance(0.3)
    world.network.answers[ONE] = world.answer
    world.dialer.network_left()
    await settled()
    assert world.network.given_up == [ONE]
    assert [address for address, _ in world.network.dialed] == [ONE, TWO, ONE]
    assert (await call).peer == world.peer


@pytest.mark.parametrize("moment", range(8))
async def test_what_is_dialed_anew_may_be_about_to_answer(world: World, moment: int) -> None:
    """Or have answered in that very turn of the loop: it is connected once."""
    world.network.answers[ONE] = world.answer
    made = watch_upgrades(world)
    call = world.call(ONE)
    await turns(moment)
    world.dialer.network_left()
    connection = await call
    await settled()
    ended = [one.finished for one in made if not one.finished.cancelled()]
    assert [finished.result() for finished in ended] == [connection]


@pytest.mark.parametrize("how", [DirectDial.BACK, DirectDial.INITIATOR])
async def test_addresses_that_answer_in_the_same_turn_make_one_connection(world: World, how: DirectDial) -> None:
    """At both ends: the others end before the last message of their handshakes."""
    theirs: list[PipeUpgrade] = []

    def answer(pipe: BytePipe) -> PipeReceiver:
        receiver = world.answer(pipe)
        assert isinstance(receiver, PipeUpgrade)
        theirs.append(receiver)
        return receiver

    world.network.answers |= dict.fromkeys((ONE, TWO, THREE), answer)
    ours = watch_upgrades(world)
    connection = await world.call(ONE, TWO, THREE, direct=how)
    for made, lost in (ours, ClosedError), (theirs, HandshakeError):
        first, *others = await asyncio.gather(*(one.finished for one in made), return_exceptions=True)
        assert isinstance(first, Connection)
        assert [type(error) for error in others] == [lost, lost]
    assert ours[0].finished.result() is connection


# -- a search for addresses ----------------------------------------------------------------------------

NOBODY = TimeoutError("nobody on the local network answered within 5 s")


async def test_what_is_found_is_dialed(world: World) -> None:
    world.network.answers[ONE] = world.answer
    call = world.call(find=True)
    await world.clock.advance(1.0)
    assert world.search.asked == [world.peer]
    world.search.found(ONE)
    assert (await call).peer == world.peer
    assert world.started == {ONE: 1.0}


async def test_what_is_known_is_dialed_meanwhile(world: World) -> None:
    world.network.answers |= {ONE: REFUSED, TWO: world.answer}
    call = world.call(ONE, find=True)
    await world.clock.advance(1.0)
    assert world.started == {ONE: 0.0}
    assert not call.done(), "another address may be found"
    world.search.found(ONE, TWO)
    assert (await call).peer == world.peer
    assert world.started == {ONE: 0.0, TWO: 1.0}


async def test_a_search_that_finds_nothing_of_use_at_once_leaves_what_is_known(world: World) -> None:
    async def find(peer: PeerId) -> list[Multiaddr]:
        return [Multiaddr.parse(QUIC)]

    world.dialer.find = find
    world.network.answers[ONE] = world.answer
    assert (await world.call(ONE, find=True)).peer == world.peer


async def test_a_search_ends_with_the_dial(world: World) -> None:
    world.network.answers[ONE] = world.answer
    await world.call(ONE, find=True)
    await settled()
    assert len(world.dialer._tasks) == 0


async def test_later_callers_share_the_search(world: World) -> None:
    calls = [world.call(ONE), world.call(find=True), world.call(find=True)]
    await settled()
    assert world.search.asked == [world.peer]
    world.network.answers[TWO] = world.answer
    world.search.found(TWO)
    await world.clock.advance(0.5)
    assert len({await call for call in calls}) == 1


async def test_only_who_asks_for_a_search_has_one(world: World) -> None:
    with pytest.raises(DialError, match=r"no address is known$"):
        world.dial()
    world.call(ONE)
    await settled()
    assert world.search.asked == []


async def test_what_is_heard_of_later_is_dialed_too(world: World) -> None:
    world.network.answers[TWO] = world.answer
    call = world.call(find=True)
    world.search.found(ONE)  # where it was before
    await world.clock.advance(2.0)
    world.dialer.found(world.peer, map(Multiaddr.parse, (ONE, TWO)))
    assert (await call).peer == world.peer
    assert world.started == {ONE: 0.0, TWO: 2.0}


async def test_what_is_found_is_limited(world: World) -> None:
    call = world.call(find=True)
    addresses = [Multiaddr.parse(f"/ip4/10.0.{number}.1/tcp/1") for number in range(MAX_FOUND + 10)]
    for address in addresses:
        world.network.answers[str(address)] = REFUSED
        world.dialer.found(world.peer, [address])
    world.search.found("/ip4/10.1.0.1/tcp/1")
    assert set(await world.failure(call)) == {str(address) for address in addresses[:MAX_FOUND]}


async def test_a_dial_to_an_address_takes_no_others(world: World) -> None:
    world.call(ONE)
    await settled()
    world.dialer.found(world.peer, [Multiaddr.parse(TWO)])
    await world.clock.advance(1.0)
    assert world.started == {ONE: 0.0}


async def test_nobody_who_answers_is_told_of(world: World) -> None:
    call = world.call(find=True)
    await world.clock.advance(5.0)
    world.search.answer.set_exception(NOBODY)
    with pytest.raises(DialError) as caught:
        await call
    reason = "no address is known, and nobody on the local network answered within 5 s"
    assert str(caught.value) == f"cannot dial {world.peer}: {reason}"
    (attempt,) = caught.value.attempts
    assert (str(attempt.address), attempt.error) == (f"/p2p/{world.peer}", NOBODY)
    assert attempt.seconds == pytest.approx(5.0)


async def test_nobody_who_answers_is_told_of_beside_what_was_dialed(world: World) -> None:
    world.network.answers[ONE] = REFUSED
    call = world.call(ONE, find=True)
    await world.clock.advance(5.0)
    world.search.answer.set_exception(NOBODY)
    attempts = await world.failure(call)
    assert {address: attempt.error for address, attempt in attempts.items()} == {
        f"/p2p/{world.peer}": NOBODY,
        ONE: REFUSED,
    }


async def test_a_caller_without_patience_ends_the_search(world: World) -> None:
    call = world.call(find=True, timeout=0.5)
    await world.clock.advance(0.5)
    with pytest.raises(DialError, match=r"no address is known, and nobody on the local network answered in time$"):
        await call
    await settled()
    assert len(world.dialer._tasks) == 0


async def test_a_fault_of_the_search_ends_the_dial(world: World) -> None:
    call = world.call(find=True)
    await settled()
    world.search.answer.set_exception(ZeroDivisionError("a fault"))
    with pytest.raises(ZeroDivisionError):
        await call


# -- callers -------------------------------------------------------------------------------------------


async def test_what_a_later_caller_brings_is_dialed_at_once(world: World) -> None:
    world.network.answers[TWO] = world.answer
    first = world.call(ONE)
    await world.clock.advance(5.0)
    second = world.call(ONE, TWO)
    assert await second is await first
    assert world.started == {ONE: 0.0, TWO: 5.0}


async def test_each_address_has_its_own_time(world: World) -> None:
    first = world.call(ONE)
    await world.clock.advance(LIMIT - 1)
    world.call(TWO)
    await world.clock.advance(LIMIT - 1)
    assert world.network.given_up == [ONE]
    assert not first.done()
    await world.clock.advance(1.0)
    attempts = await world.failure(first)
    assert {address: attempt.seconds for address, attempt in attempts.items()} == {
        ONE: pytest.approx(LIMIT),
        TWO: pytest.approx(LIMIT),
    }


async def test_a_caller_that_brings_nothing_joins(world: World) -> None:
    world.network.answers[ONE] = world.answer
    first = world.call(ONE)
    assert await world.call() is await first


async def test_a_dial_ends_when_the_last_caller_leaves(world: World) -> None:
    calls = [world.call(ONE, TWO), world.call(NAME), world.call()]
    await world.clock.advance(0.25)
    for call in calls[:2]:
        call.cancel()
    await settled()
    assert world.network.given_up == []
    calls[2].cancel()
    await settled()
    assert world.network.given_up == [ONE, TWO]
    assert world.dialer.dials == {}
    await world.dialer.ended()


async def test_who_comes_after_the_last_has_left_has_a_dial_of_its_own(world: World) -> None:
    left = world.call(ONE)
    await settled()
    left.cancel()
    await turns(1)
    world.network.answers[ONE] = world.answer
    assert (await world.call(ONE)).peer == world.peer


async def test_a_caller_whose_time_is_up_leaves_the_others_waiting(world: World) -> None:
    patient, hasty = world.call(ONE), world.call(TWO, timeout=1.0)
    await world.clock.advance(1.0)
    attempts = await world.failure(hasty)
    assert set(attempts) == {ONE, TWO}
    assert not patient.done()
    assert world.network.given_up == []


async def test_an_outcome_that_comes_before_anybody_waits(world: World) -> None:
    dial = world.dial(QUIC)
    assert world.dialer.dials == {}
    with pytest.raises(DialError):
        await dial.outcome(world.clock.now)


async def test_nothing_to_dial(world: World) -> None:
    with pytest.raises(DialError, match="no address is known"):
        world.dial()


async def test_too_many_peers() -> None:
    async with a_world(max_pending_outbound_connections=1) as world:
        world.call(ONE)
        other = Keypair.generate().peer_id
        with pytest.raises(DialError, match="max_pending_outbound_connections"):
            world.dial(ONE, peer=other)
        world.dial(TWO)  # of the same peer


async def test_closing(world: World) -> None:
    calls = world.call(ONE), world.call(NAME, TWO)
    await world.clock.advance(0.25)
    world.dialer.close()
    await world.dialer.ended()
    for call in calls:
        with pytest.raises(ClosedError):
            await call
    assert set(world.network.given_up) == {ONE, TWO}


@pytest.mark.parametrize("where", ["network", "names"])
async def test_a_fault_of_ours_reaches_whoever_waits(world: World, where: str) -> None:
    fault = LookupError("a mistake")
    if where == "names":
        world.names.answers[NAME] = fault
    else:
        world.network.answers[ONE] = fault
    slow = "/dns4/slow/tcp/1"
    world.know(slow)
    for call in [world.call(TWO, NAME, slow, ONE), world.call(NAME, ONE)]:
        await world.clock.advance(0.25)
        with pytest.raises(LookupError):
            await call
    assert world.entry(slow).failures == 0
    assert world.dialer.dials == {}


@pytest.mark.parametrize("joining", [False, True])
async def test_a_fault_before_anything_is_dialed_reaches_whoever_waits(world: World, joining: bool) -> None:
    def supports(address: Multiaddr) -> bool:
        raise LookupError("a mistake")

    calls = [world.call(ONE)] if joining else []
    await settled()
    world.network.supports = supports  # type: ignore[method-assign]
    for call in [*calls, world.call(TWO, THREE)]:
        with pytest.raises(LookupError):
            await call
    assert world.dialer.dials == {}
    assert list(world.started) == [ONE] * joining


# -- roles ---------------------------------------------------------------------------------------------


async def test_the_role_is_an_argument_and_a_dial_of_its_own(world: World) -> None:
    usual = world.call(ONE)
    world.network.answers[TWO] = partial(world.answer, initiator=True)
    punch = world.call(TWO, direct=DirectDial.RESPONDER)
    connection = await punch
    assert connection.peer == world.peer
    assert world.upgrades == [(TWO, False)]
    assert not usual.done()


@pytest.mark.parametrize("how", DirectDial)
async def test_for_a_direct_path_all_addresses_are_dialed_at_once(world: World, how: DirectDial) -> None:
    """And beside the usual dial, which may find a relay: at its moment the other end dials, too."""
    usual = world.call(NAME)
    punch = world.call(ONE, TWO, THREE, direct=how)
    await settled()
    assert world.started == {ONE: 0.0, TWO: 0.0, THREE: 0.0}
    assert not usual.done()
    world.dialer.close()
    for call in usual, punch:
        with pytest.raises(ClosedError):
            await call


async def test_a_peer_that_comes_by_itself_ends_every_dial_to_it(world: World) -> None:
    world.network.answers[ONE] = world.answer
    connection = await world.call(ONE)
    calls = [world.call(TWO), *(world.call(TWO, direct=how) for how in DirectDial)]
    await settled()
    world.dialer.peer_connected(connection)
    for call in calls:
        assert await call is connection


# -- reasons -------------------------------------------------------------------------------------------


async def test_every_address_has_its_own_reason_and_time(world: World) -> None:
    world.admission.set_policy(AdmissionRules(deny_networks=(ip_network("10.0.0.0/8"),)))
    world.network.answers |= {ONE: REFUSED, TWO: world.silence}
    unknown = "/dns4/unknown/tcp/1"
    world.names.answers[unknown] = OSError("the name cannot be resolved")
    denied, wildcard = "/ip4/10.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/1"
    call = world.call(QUIC, denied, wildcard, unknown, ONE, TWO, THREE, "/dns4/slow/tcp/1", timeout=0.1)
    await world.clock.advance(0.1, step=0.1)
    attempts = await world.failure(call)
    assert {address: str(attempt.error) for address, attempt in attempts.items()} == {
        QUIC: f"invalid address '{QUIC}': no transport supports it (available: fake)",
        denied: f"not permitted for peer {world.peer}: 10.0.0.1 is in the denied network 10.0.0.0/8",
        wildcard: f"invalid address '{wildcard}': a wildcard cannot be dialed: dial the address of one interface",
        unknown: "the name cannot be resolved",
        ONE: "connection refused",
        TWO: "no answer in time",
        THREE: "not dialed before the time was up",
        "/dns4/slow/tcp/1": "not looked up in time",
    }
    assert [type(attempts[address].error) for address in (QUIC, denied, TWO)] == [
        InvalidAddress,
        NotPermitted,
        TimeoutError,
    ]
    assert {address: attempt.seconds for address, attempt in attempts.items() if attempt.seconds} == {
        TWO: pytest.approx(0.1),
        "/dns4/slow/tcp/1": pytest.approx(0.1),
    }


async def test_an_address_that_takes_too_long(world: World) -> None:
    call = world.call(ONE)
    await world.clock.advance(LIMIT)
    attempt = (await world.failure(call))[ONE]
    assert isinstance(attempt.error, TimeoutError)
    assert str(attempt.error) == "no answer within 10 s"
    assert attempt.seconds == pytest.approx(LIMIT)


async def test_another_identity_is_the_reason(world: World) -> None:
    stranger = Host(Config())
    world.network.answers[ONE] = partial(stranger.upgrade, expected_peer=None)
    error = (await world.failure(world.call(ONE)))[ONE].error
    assert isinstance(error, PeerIdMismatch)
    stranger.deadlines.close()


async def test_what_cannot_be_dialed_holds_up_nothing(world: World) -> None:
    world.call(QUIC, "/p2p-circuit", "/ip6/::/tcp/1", ONE, TWO)
    await world.clock.advance(0.25)
    assert world.started == {ONE: 0.0, TWO: 0.25}


async def test_every_caller_has_an_error_of_its_own(world: World) -> None:
    world.network.answers[ONE] = REFUSED
    calls = [world.call(ONE) for _ in range(3)]
    await asyncio.wait(calls)
    errors = [call.exception() for call in calls]
    assert len(set(map(id, errors))) == 3  # else each would add its callers to one traceback
    assert len({error.attempts for error in errors if isinstance(error, DialError)}) == 1


async def test_who_is_late_by_less_than_a_turn_has_the_outcome(world: World) -> None:
    call = world.call(ONE, timeout=1.0)
    asyncio.get_running_loop().call_at(world.clock.now + 1.1, world.dialer.close)
    await settled()
    world.clock.now += 1.2  # both in one turn: the time is up, then we close
    with pytest.raises(ClosedError):
        await call


# -- what the address book hears -----------------------------------------------------------------------


async def test_successes_and_failures(world: World) -> None:
    world.know(ONE, TWO)
    world.network.answers |= {ONE: REFUSED, TWO: world.answer}
    await world.call(ONE, TWO)
    assert world.entry(ONE).failures == 1
    assert (world.entry(TWO).failures, world.entry(TWO).last_success) == (0, world.clock.now)


async def test_the_target_of_a_call_is_known_once_it_worked(world: World) -> None:
    world.network.answers |= {ONE: REFUSED, TWO: world.answer}
    await world.call(ONE, TWO)
    (entry,) = world.book.entries(world.peer)
    assert (str(entry.address), entry.source) == (TWO, AddressSource.GIVEN)


async def test_a_name_works_with_one_of_its_addresses_and_fails_with_the_last(world: World) -> None:
    world.know(NAME)
    world.names.answers[NAME] = [ONE, TWO]
    world.network.answers |= {ONE: REFUSED, TWO: world.answer}
    await world.call(NAME)
    assert (world.entry(NAME).failures, world.entry(NAME).last_success) == (0, world.clock.now)
    world.network.answers[TWO] = REFUSED
    await world.failure(world.call(NAME))
    assert world.entry(NAME).failures == 1
    world.names.answers[NAME] = OSError("the name cannot be resolved")
    await world.failure(world.call(NAME))
    assert world.entry(NAME).failures == 2
    assert [str(entry.address) for entry in world.book.entries(world.peer)] == [NAME]


@pytest.mark.parametrize("error", [NotPermitted(None, "banned"), LimitExceeded("max_connections"), ClosedError()])
async def test_what_is_our_own_doing_is_no_failure_of_an_address(world: World, error: Exception) -> None:
    world.know(ONE, QUIC)
    world.network.answers[ONE] = error
    attempts = await world.failure(world.call(ONE, QUIC))
    assert attempts[ONE].error is error
    assert [entry.failures for entry in world.book.entries(world.peer)] == [0, 0]


@pytest.mark.parametrize(("seconds", "failures"), [(UNANSWERED - 0.1, 0), (UNANSWERED, 1)])
async def test_no_answer_is_a_failure_if_it_was_waited_for(world: World, seconds: float, failures: int) -> None:
    world.know(ONE, TWO, NAME)
    call = world.call(ONE, TWO, NAME)
    await world.clock.advance(seconds)
    call.cancel()
    await settled()
    assert world.entry(ONE).failures == world.entry(NAME).failures == failures
    assert world.entry(TWO).failures == 0  # it has waited for a moment less


async def test_a_loser_that_was_waited_for_has_failed(world: World) -> None:
    world.know(ONE, TWO)
    world.network.answers |= {ONE: world.silence, TWO: world.answer}
    first = world.call(ONE)
    await world.clock.advance(UNANSWERED)
    second = world.call(TWO)
    await asyncio.gather(first, second)
    await settled()
    assert world.entry(ONE).failures == 1


async def test_a_dial_that_is_decided_begins_no_other(world: World) -> None:
    """Those that lose leave their places."""
    many = [f"/ip4/192.0.2.{number}/tcp/1" for number in range(1, 13)]
    world.network.answers |= dict.fromkeys(many, world.answer)
    await world.call(*many, direct=DirectDial.INITIATOR)
    await settled()
    assert len(world.network.dialed) == Config().max_dials_per_peer


async def test_a_loser_has_not_failed(world: World) -> None:
    world.know(ONE, TWO)
    world.network.answers |= {ONE: world.silence, TWO: world.answer}
    call = world.call(ONE, TWO)
    await world.clock.advance(0.25)
    await call
    await settled()
    assert world.entry(ONE).failures == 0
