"""In which order addresses are dialed, and when."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from stronghold_p2p import AddressEntry, AddressSource, Multiaddr
from stronghold_p2p.swarm.ranking import BACK_OFF, LOCAL_STAGGER, MAX_BACK_OFF, Candidate, rank

NOW = 1_000_000.0
STAGGER = 0.25

NETWORKS = [
    ip_network(text)
    for text in ("10.0.0.0/24", "169.254.0.0/16", "192.168.1.0/24", "100.64.0.0/10", "fd00::/64", "2606::/64")
]
"""Those of our interfaces."""

RELAY = "/ip4/1.1.1.1/tcp/1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X/p2p-circuit"


def ip4(last: int, rest: str = "") -> str:
    return f"/ip4/1.2.3.{last}/tcp/1{rest}"


def ip6(last: int, rest: str = "") -> str:
    return f"/ip6/2606::{last}/tcp/1{rest}"


def local(last: int) -> str:
    return f"/ip4/192.168.1.{last}/tcp/1"


def known(
    text: str,
    *,
    source: AddressSource = AddressSource.IDENTIFY,
    success: float | None = None,
    failure: float | None = None,
    failures: int = 1,
) -> Candidate:
    """An address of the book; its last success and failure so many seconds ago."""
    return Candidate(
        Multiaddr.parse(text),
        AddressEntry(
            Multiaddr.parse(text),
            source,
            last_success=None if success is None else NOW - success,
            last_failure=None if failure is None else NOW - failure,
            failures=failures if failure is not None else 0,
        ),
    )


def ranked(*candidates: Candidate | str) -> dict[str, Any]:
    """The delays by address, in order."""
    schedule = rank(
        [Candidate(Multiaddr.parse(one), None) if isinstance(one, str) else one for one in candidates],
        NOW,
        STAGGER,
        NETWORKS,
    )
    delays = [delay for _, delay in schedule]
    assert delays == sorted(delays)
    return {str(address): pytest.approx(delay) for address, delay in schedule}


def test_nothing_and_one() -> None:
    assert rank([], NOW, STAGGER) == []
    assert ranked(ip4(1)) == {ip4(1): 0.0}
    assert ranked(RELAY) == {RELAY: 0.0}


def test_families_by_turns_ipv6_first_one_step_apart() -> None:
    order = ranked(ip4(1), ip4(2), ip4(3), ip6(1), ip6(2))
    assert list(order) == [ip6(1), ip4(1), ip6(2), ip4(2), ip4(3)]
    assert list(order.values()) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_tcp_before_websocket() -> None:
    order = ranked(ip4(1, "/ws"), ip6(1, "/tls/ws"), ip4(2), ip6(2))
    assert list(order) == [ip6(2), ip4(2), ip6(1, "/tls/ws"), ip4(1, "/ws")]


@pytest.mark.parametrize(
    "near",
    [
        local(1),
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/100.64.0.1/tcp/1",
        "/ip4/169.254.1.1/tcp/1",
        "/ip6/::1/tcp/1",
        "/ip6/fd00::1/tcp/1",
        "/ip6/::ffff:10.0.0.1/tcp/1",
    ],
)
def test_local_ones_start_beside_the_public_ones_in_short_steps(near: str) -> None:
    assert ranked(ip4(1), ip4(2), near) == {near: 0.0, ip4(1): 0.0, ip4(2): 0.25}
    other = near.replace("tcp/1", "tcp/2")
    assert ranked(ip4(1), near, other) == {near: 0.0, ip4(1): 0.0, other: LOCAL_STAGGER}


def test_local_ones_of_other_networks_follow_in_the_steps_of_public_ones() -> None:
    far, other = "/ip4/10.0.1.1/tcp/1", "/ip6/fd01::1/tcp/1"
    assert ranked(ip4(1), far, other) == {ip4(1): 0.0, other: 0.0, far: 0.25}
    order = ranked(far, local(1), local(2), other)
    assert order == {local(1): 0.0, local(2): 0.03, other: 0.28, far: 0.53}
    assert ranked(far, RELAY, "/ip4/127.0.0.1/tcp/1") == {"/ip4/127.0.0.1/tcp/1": 0.0, RELAY: 0.0, far: 0.25}


def test_what_worked_in_another_network_leads_by_a_whole_step() -> None:
    far = "/ip4/10.0.1.1/tcp/1"
    assert ranked(ip4(1), known(far, success=1)) == {far: 0.0, ip4(1): 0.25}


def test_what_was_heard_on_the_local_network_is_local() -> None:
    near = known(ip4(9), source=AddressSource.MDNS)
    assert ranked(ip4(1), ip4(2), near) == {ip4(9): 0.0, ip4(1): 0.0, ip4(2): 0.25}


def test_many_local_ones_do_not_take_the_places_of_public_ones() -> None:
    order = ranked(*map(local, range(1, 13)), ip4(1), ip6(1), ip4(2))
    assert {ip6(1), ip4(1), ip4(2)} <= set(list(order)[:8])


def test_what_worked_leads_the_latest_first() -> None:
    order = ranked(ip6(1), known(ip4(2), success=60), known(ip4(3), success=10), local(1))
    assert order == {ip4(3): 0.0, ip4(2): 0.25, local(1): 0.5, ip6(1): 0.5}
    assert list(order) == [ip4(3), ip4(2), local(1), ip6(1)]
    order = ranked(ip6(1), known(local(1), success=60))
    assert order == {local(1): 0.0, ip6(1): LOCAL_STAGGER}


def test_direct_before_relayed() -> None:
    worked = RELAY.replace("tcp/1/", "tcp/2/")
    order = ranked(RELAY, known(worked, success=1), ip4(1))
    assert order == {ip4(1): 0.0, worked: 0.5, RELAY: 0.75}
    assert ranked(RELAY, known(local(1), success=1)) == {local(1): 0.0, RELAY: 0.5}


def test_a_relay_does_not_wait_for_local_ones_that_may_be_of_elsewhere() -> None:
    assert ranked(RELAY, local(1)) == {local(1): 0.0, RELAY: 0.0}


def test_what_has_just_failed_comes_last_but_comes() -> None:
    order = ranked(
        known(ip6(1), success=60, failure=1, failures=3),
        known(ip6(2), failure=1),
        known(RELAY, failure=1),
        ip4(1),
        local(1),
        RELAY.replace("tcp/1/", "tcp/2/"),
    )
    assert list(order)[-3:] == [ip6(2), ip6(1), RELAY]
    assert list(order.values())[-4:] == [0.5, 0.75, 1.0, 1.25]
    assert ranked(known(ip4(1), failure=1), known(ip4(2), failure=1)) == {ip4(1): 0.0, ip4(2): 0.25}


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, BACK_OFF), (2, BACK_OFF + 1), (3, BACK_OFF + 4), (10, BACK_OFF + 81), (1000, MAX_BACK_OFF)],
)
def test_failures_are_forgotten_after_a_time_that_grows_with_their_number(failures: int, seconds: float) -> None:
    def first(ago: float) -> str:
        return next(iter(ranked(ip4(1), known(ip4(2), success=9999, failure=ago, failures=failures))))

    assert first(seconds - 0.1) == ip4(1)
    assert first(seconds) == ip4(2)


def test_a_short_stagger_holds_for_local_ones_too() -> None:
    one, other = (Candidate(Multiaddr.parse(local(last)), None) for last in (1, 2))
    assert [delay for _, delay in rank([one, other], NOW, 0.01, NETWORKS)] == [0.0, 0.01]


def test_an_address_without_ip() -> None:
    assert ranked("/memory/1", "/memory/2") == {"/memory/1": 0.0, "/memory/2": 0.25}
