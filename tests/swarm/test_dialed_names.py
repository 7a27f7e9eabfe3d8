"""Dials to names: what they lead to, and what the caller and the address book hear of it."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from itertools import pairwise

import pytest
from support.dialing import LIMIT, NAME, ONE, REFUSED, THREE, TWO, World, a_world
from support.waiting import settled

from stronghold_p2p import AddressSource, HandshakeError, Multiaddr, NotPermitted
from stronghold_p2p.firewall.admission import AdmissionRules
from stronghold_p2p.swarm.attempt import MAX_ADDRESSES, MAX_DEPTH, MAX_NAMES
from stronghold_p2p.swarm.dialer import MAX_TTL, MIN_TTL

RECORDS, OTHER = "/dnsaddr/bob.example", "/dnsaddr/other.example"

# -- names ---------------------------------------------------------------------------------------------


async def test_a_name_is_dialed_at_its_addresses(world: World) -> None:
    world.names.answers[NAME] = [ONE, TWO]
    world.network.answers[TWO] = world.answer
    call = world.call(NAME)
    await world.clock.advance(0.25)
    await call
    assert world.started == {ONE: 0.0, TWO: 0.25}
    assert world.upgrades == [(NAME, True)]
    assert world.network.named == {ONE: NAME, TWO: NAME}


async def test_a_name_that_leads_to_a_name_is_told_to_the_transport_as_it_was_looked_up_last(world: World) -> None:
    world.names.answers |= {NAME: ["/dns4/other/tcp/1", TWO], "/dns4/other/tcp/1": [ONE]}
    world.network.answers |= {ONE: REFUSED, TWO: REFUSED, THREE: REFUSED}
    await world.failure(world.call(NAME, THREE))
    assert world.network.named == {ONE: "/dns4/other/tcp/1", TWO: NAME, THREE: None}


async def test_names_are_told_by_their_addresses(world: World) -> None:
    world.names.answers[NAME] = [ONE, TWO]
    world.network.answers |= {ONE: REFUSED, TWO: HandshakeError("altered")}
    attempts = await world.failure(world.call(NAME))
    assert {address: str(attempt.error) for address, attempt in attempts.items()} == {
        ONE: "connection refused",
        TWO: "noise: altered",
    }


async def test_a_policy_is_asked_about_each_address_of_a_name(world: World) -> None:
    world.admission.set_policy(AdmissionRules(deny_networks=(ip_network("10.0.0.0/8"),)))
    denied = "/ip4/10.0.0.1/tcp/1"
    world.names.answers[NAME] = [denied, "/ip4/0.0.0.0/tcp/1", ONE]
    world.network.answers[ONE] = REFUSED
    attempts = await world.failure(world.call(NAME))
    assert isinstance(attempts[denied].error, NotPermitted)
    assert list(world.started) == [ONE]


async def test_numbers_do_not_wait_for_names(world: World) -> None:
    world.network.answers[ONE] = world.answer
    await world.call("/dns4/slow/tcp/1", ONE)
    assert world.started == {ONE: 0.0}


async def test_the_failure_of_all_others_does_not_end_the_wait_for_a_name(world: World) -> None:
    world.network.answers[ONE] = REFUSED
    call = world.call(ONE, NAME)
    await world.clock.advance(LIMIT - 1)
    assert not call.done()
    await world.clock.advance(1)
    attempts = await world.failure(call)
    assert str(attempts[NAME].error) == "not looked up within 10 s"
    assert attempts[NAME].seconds == pytest.approx(LIMIT)


async def test_a_name_and_its_address_are_one(world: World) -> None:
    world.names.answers |= {NAME: [ONE], "/dns/other/tcp/1": [ONE]}
    world.call(NAME, ONE, "/dns/other/tcp/1")
    await world.clock.advance(1.0)
    assert world.started == {ONE: 0.0}
    world.call(NAME)
    await settled()
    assert world.names.asked == [NAME, "/dns/other/tcp/1"]


async def test_a_name_in_an_address_that_cannot_be_dialed_is_not_looked_up(world: World) -> None:
    await world.failure(world.call("/dns4/host/udp/1/quic-v1"))
    assert world.names.asked == []


async def test_a_name_with_four_addresses_of_which_three_are_dead_connects_within_a_second(world: World) -> None:
    four = [*(f"/ip6/2606::{number}/tcp/1" for number in (1, 2)), ONE, TWO]
    world.names.answers[NAME] = four
    world.network.answers[TWO] = world.answer
    call = world.call(NAME)
    await world.clock.advance(0.75)
    assert (await call).peer == world.peer
    assert list(world.started) == [four[0], ONE, four[1], TWO]
    assert set(world.network.given_up) == set(four[:3])


async def test_names_have_no_more_dials_at_once_than_others() -> None:
    addresses = [f"/ip4/1.2.3.{number}/tcp/1" for number in range(6)]
    async with a_world(max_dials_per_peer=3) as world:
        world.names.answers |= {RECORDS: [NAME, *addresses[:3]], NAME: addresses[3:]}
        world.call(RECORDS)
        await world.clock.advance(5.0)
        assert len(world.started) == 3
        await world.clock.advance(LIMIT)
        assert sorted(world.started) == addresses


async def test_who_told_a_name_is_told_to_the_resolver(world: World) -> None:
    told, given, called = (f"/dns4/{name}/tcp/1" for name in ("told", "given", "called"))
    world.know(given)
    world.book.tell(world.peer, AddressSource.IDENTIFY, [Multiaddr.parse(told), Multiaddr.parse(RECORDS)])
    world.names.answers[RECORDS] = [NAME]
    world.call(told, given, called, RECORDS)
    await settled()
    assert world.names.asked == [told, given, called, RECORDS, NAME]
    assert world.names.told == {told, RECORDS, NAME}


async def test_what_names_lead_to_is_ranked_with_what_waits(world: World) -> None:
    """However many names there are, their addresses do not all start at once."""
    ip6, slow = "/ip6/2606::1/tcp/1", asyncio.get_running_loop().create_future()
    world.names.answers |= {NAME: [TWO], RECORDS: [THREE, ip6]}
    world.names.slow[RECORDS] = slow
    world.call(NAME, ONE, RECORDS)
    await settled()
    slow.set_result(None)
    await world.clock.advance(2.0)
    assert world.started == {ONE: 0.0, ip6: 0.25, TWO: 0.5, THREE: 0.75}


# -- /dnsaddr ------------------------------------------------------------------------------------------


async def test_records_are_dialed_as_what_they_lead_to(world: World) -> None:
    world.names.answers |= {RECORDS: [NAME, TWO], NAME: [ONE]}
    world.network.answers[ONE] = world.answer
    call = world.call(RECORDS)
    await world.clock.advance(0.25)
    await call
    assert world.started == {TWO: 0.0, ONE: 0.25}
    assert world.upgrades == [(RECORDS, True)]
    assert world.network.named == {ONE: NAME, TWO: None}


async def test_a_name_that_a_remote_told_does_not_lead_to_this_machine(world: World) -> None:
    door, given = "/ip4/127.0.0.1/tcp/22", "/dns4/given/tcp/1"
    world.names.answers |= {NAME: [door, ONE], RECORDS: [door], given: ["/ip6/::1/tcp/1"]}
    world.network.answers |= {ONE: REFUSED, "/ip6/::1/tcp/1": REFUSED}
    world.book.tell(world.peer, AddressSource.IDENTIFY, [Multiaddr.parse(NAME), Multiaddr.parse(RECORDS)])
    world.know(given)
    attempts = await world.failure(world.call(NAME, RECORDS, given))
    assert set(world.started) == {ONE, "/ip6/::1/tcp/1"}
    assert str(attempts[RECORDS].error) == "a remote has told it, and it leads to this machine"
    assert door not in map(str, world.book.get(world.peer))


async def test_every_address_is_told_with_the_names_that_led_to_it(world: World) -> None:
    relayed = f"{THREE}/p2p/{world.alice.keypair.peer_id}/p2p-circuit"
    world.names.answers |= {RECORDS: [OTHER, TWO, relayed], OTHER: [NAME, "/dns4/unknown/tcp/1"], NAME: [ONE]}
    world.names.answers["/dns4/unknown/tcp/1"] = OSError("the name cannot be resolved")
    world.network.answers |= {ONE: REFUSED, TWO: REFUSED}
    attempts = await world.failure(world.call(RECORDS))
    assert {address: (str(one.error), [*map(str, one.names)]) for address, one in attempts.items()} == {
        TWO: ("connection refused", [RECORDS]),
        relayed: (f"invalid address '{relayed}': no transport supports it (available: fake)", [RECORDS]),
        "/dns4/unknown/tcp/1": ("the name cannot be resolved", [RECORDS, OTHER]),
        ONE: ("connection refused", [RECORDS, OTHER, NAME]),
    }


async def test_a_name_without_records_is_told_itself(world: World) -> None:
    world.names.answers[RECORDS] = OSError("there is no name _dnsaddr.bob.example")
    attempts = await world.failure(world.call(RECORDS))
    assert {address: (str(one.error), one.names) for address, one in attempts.items()} == {
        RECORDS: ("there is no name _dnsaddr.bob.example", ())
    }


async def test_records_that_lead_to_themselves(world: World) -> None:
    world.names.answers[RECORDS] = [RECORDS]
    attempts = await world.failure(world.call(RECORDS))
    assert {address: str(one.error) for address, one in attempts.items()} == {
        RECORDS: f"it leads to nothing new, but to {RECORDS}"
    }
    assert world.names.asked == [RECORDS]


async def test_records_that_lead_to_each_other(world: World) -> None:
    world.names.answers |= {RECORDS: [OTHER], OTHER: [RECORDS]}
    attempts = await world.failure(world.call(RECORDS))
    assert {address: str(one.error) for address, one in attempts.items()} == {
        OTHER: f"it leads to nothing new, but to {RECORDS}"
    }
    attempts = await world.failure(world.call(RECORDS, OTHER))
    assert set(attempts) == {RECORDS, OTHER}


async def test_a_loop_does_not_hide_what_is_beside_it(world: World) -> None:
    world.names.answers |= {RECORDS: [OTHER, RECORDS], OTHER: [RECORDS, ONE]}
    world.network.answers[ONE] = world.answer
    await world.call(RECORDS)
    assert world.names.asked == [RECORDS, OTHER]


def chain(length: int) -> list[str]:
    return [f"/dnsaddr/{number}.example" for number in range(length)]


async def test_names_lead_to_each_other_only_so_far(world: World) -> None:
    names = chain(MAX_DEPTH + 1)
    world.names.answers |= {name: [following] for name, following in pairwise(names)}
    attempts = await world.failure(world.call(names[0]))
    assert {address: str(one.error) for address, one in attempts.items()} == {
        names[-1]: f"more than {MAX_DEPTH} names lead to each other"
    }
    assert world.names.asked == names[:-1]


async def test_a_name_leads_to_so_many_names_at_most(world: World) -> None:
    names = chain(MAX_NAMES + 5)
    unknown = OSError("there is no name")
    world.names.answers |= {names[0]: names[1:3], names[1]: names[3:], **dict.fromkeys(names[2:], unknown)}
    attempts = await world.failure(world.call(names[0]))
    assert len(set(world.names.asked)) == len(world.names.asked) == MAX_NAMES
    if asyncio.get_running_loop().get_task_factory() is None:  # eager tasks ask in another order
        assert world.names.asked == names[:MAX_NAMES]
    reasons = [str(one.error) for one in attempts.values()]
    assert reasons.count("there is no name") == MAX_NAMES - 2
    assert len(reasons) == MAX_ADDRESSES - 1  # all but the second
    assert set(reasons) - {"there is no name"} == {f"its names lead to more than {MAX_NAMES} names"}


async def test_a_name_leads_to_so_many_addresses_at_most(world: World) -> None:
    addresses = [f"/ip4/1.2.3.{number}/tcp/1" for number in range(2 * MAX_ADDRESSES)]
    world.names.answers |= {RECORDS: [OTHER, NAME, *addresses[: MAX_ADDRESSES - 2]], OTHER: addresses, NAME: [THREE]}
    world.network.answers |= dict.fromkeys(addresses, REFUSED)
    attempts = await world.failure(world.call(RECORDS))
    assert list(world.started) == addresses[: MAX_ADDRESSES - 2]
    assert str(attempts[OTHER].error) == f"its names lead to more than {MAX_ADDRESSES} addresses"
    world.names.answers[RECORDS] = [ONE]
    await world.failure(world.call(RECORDS))  # another dial counts anew


async def test_the_time_of_the_first_look_up_is_that_of_the_second_too(world: World) -> None:
    slow = world.names.slow[RECORDS] = asyncio.get_running_loop().create_future()
    world.names.answers[RECORDS] = [OTHER]
    call = world.call(RECORDS)
    await world.clock.advance(LIMIT - 1)
    assert world.names.asked == [RECORDS]
    slow.set_result(None)
    await world.clock.advance(1)
    attempt = (await world.failure(call))[OTHER]
    assert str(attempt.error) == "not looked up within 10 s"
    assert attempt.seconds == pytest.approx(1.0)


async def test_a_policy_is_asked_about_what_records_lead_to(world: World) -> None:
    world.admission.set_policy(AdmissionRules(deny_networks=(ip_network("10.0.0.0/8"),)))
    world.names.answers[RECORDS] = ["/ip4/10.0.0.1/tcp/1"]
    attempts = await world.failure(world.call(RECORDS))
    assert isinstance(attempts["/ip4/10.0.0.1/tcp/1"].error, NotPermitted)


async def test_the_name_of_a_relay_is_not_looked_up(world: World) -> None:
    relayed = f"{RECORDS}/p2p/{world.alice.keypair.peer_id}/p2p-circuit"
    attempts = await world.failure(world.call(relayed))
    assert "no transport supports it" in str(attempts[relayed].error)
    assert world.names.asked == []


async def test_records_are_kept_for_as_long_as_they_are_valid(world: World) -> None:
    world.know(RECORDS)
    world.names.answers |= {RECORDS: [OTHER, ONE], OTHER: [NAME, TWO], NAME: [THREE]}
    world.network.answers[TWO] = world.answer
    call = world.call(RECORDS)
    await world.clock.advance(0.25)
    await call
    told = {str(entry.address): entry for entry in world.book.entries(world.peer)}
    assert set(told) == {RECORDS, ONE, TWO, NAME}
    assert {told[address].source for address in (ONE, TWO, NAME)} == {AddressSource.DNSADDR}
    assert told[ONE].expires == pytest.approx(world.begun + world.names.ttl)
    assert (told[RECORDS].last_success, told[TWO].last_success) == (world.clock.now, world.clock.now)
    assert (told[ONE].last_success, told[NAME].last_success) == (None, None)


@pytest.mark.parametrize(("ttl", "kept"), [(0.0, MIN_TTL), (100.0, 100.0), (2**31, MAX_TTL)])
async def test_what_records_say_of_their_time_is_bounded(world: World, ttl: float, kept: float) -> None:
    world.names.ttl = ttl
    world.names.answers[RECORDS] = [ONE]
    world.network.answers[ONE] = REFUSED
    await world.failure(world.call(RECORDS))
    (entry,) = world.book.entries(world.peer)
    assert entry.expires == world.clock.now + kept
    assert entry.failures == 1


async def test_a_name_that_is_known_leads_to_what_worked_first(world: World) -> None:
    world.know(RECORDS)
    world.names.answers[RECORDS] = [ONE, TWO, THREE]
    world.network.answers |= {ONE: world.silence, THREE: world.answer}
    call = world.call(RECORDS)
    await world.clock.advance(0.5)
    await call
    world.network.dialed.clear()
    world.call(RECORDS)
    await world.clock.advance(0.0)
    assert list(world.started) == [THREE]


async def test_a_name_fails_with_the_last_of_what_it_leads_to(world: World) -> None:
    world.know(RECORDS, NAME)
    world.names.answers |= {RECORDS: [NAME, TWO], NAME: [ONE]}
    world.network.answers[ONE] = REFUSED
    call = world.call(RECORDS)
    await world.clock.advance(0.25)
    assert (world.entry(NAME).failures, world.entry(RECORDS).failures) == (1, 0)
    await world.clock.advance(LIMIT)
    await world.failure(call)
    assert (world.entry(NAME).failures, world.entry(RECORDS).failures) == (1, 1)


async def test_leaving_ends_a_look_up_when_nobody_else_waits(world: World) -> None:
    world.names.answers[RECORDS] = [OTHER]
    first, second = world.call(RECORDS), world.call(OTHER)
    await settled()
    first.cancel()
    await settled()
    world.names.answers[OTHER] = [ONE]  # nobody hears of it
    assert not second.done()
    second.cancel()
    await settled()
    assert world.dialer.dials == {}
    await world.dialer.ended()


# -- addresses that are none to dial -------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/ip4/0.0.0.0/tcp/1", "a wildcard cannot be dialed"),
        ("/ip6/::/tcp/1", "a wildcard cannot be dialed"),
        ("/ip6/::ffff:0.0.0.0/tcp/1", "a wildcard cannot be dialed"),
        ("/ip6/fe80::1/tcp/1", "a link-local address cannot be dialed: it does not tell the interface"),
        ("/ip4/192.168.1.1/tcp/4001", "we listen on it ourselves"),
    ],
)
async def test_what_is_never_dialed(world: World, address: str, reason: str, by_name: bool) -> None:
    world.own = ["/ip4/192.168.1.1/tcp/4001"]
    world.names.answers[NAME] = [address]
    attempts = await world.failure(world.call(NAME if by_name else address))
    assert reason in str(attempts[address].error)
    assert world.network.dialed == []
