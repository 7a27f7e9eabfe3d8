"""Who finds a place for a circuit, and who gives way."""

from __future__ import annotations

from itertools import count

import pytest

from stronghold_p2p import PeerId
from stronghold_p2p.protocols.relay.limits import RelayServer
from stronghold_p2p.protocols.relay.places import Place, Places

ATTACKER = ("2001:db8:1::/48", "2001:db8:1::/56")
MANY = 1000
HONEST = ("192.0.2.1/32",)


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x04" + number.to_bytes(4))


def ignore(limit: str, networks: tuple[str, ...]) -> None: ...


def fill(places: Places, networks: tuple[str, ...], circuits: int, *, sources: int = 1000) -> list[Place]:
    """So many, each to another target. All are taken."""
    first = 1000 * len(networks)
    taken = [Place(peer(first + number % sources), peer(10_000 + number)) for number in range(circuits)]
    assert not any(places.take(networks, place, MANY) for place in taken)
    return taken


def test_they_are_counted_until_they_are_free() -> None:
    places = Places(RelayServer(max_circuits=3), ignore)
    first, *_ = fill(places, HONEST, 3)
    assert len(places) == 3
    assert places.take(HONEST, Place(peer(1), peer(2)), MANY) == "max_circuits"
    assert len(places) == 3
    places.free(first)
    places.free(first)
    assert len(places) == 2
    assert not places.take(HONEST, Place(peer(1), peer(2)), MANY)


def test_one_network_has_all_and_a_newcomer_finds_a_place() -> None:
    reached: list[tuple[str, tuple[str, ...]]] = []
    places = Places(RelayServer(max_circuits=8), lambda *limit: reached.append(limit))
    *_, newest = taken = fill(places, ATTACKER, 8)
    assert not places.take(HONEST, Place(peer(1), peer(2)), MANY)
    assert reached == [("max_circuits", ATTACKER)]
    assert [place.lost for place in taken] == [place is newest for place in taken]
    assert len(places) == 8


def test_who_has_no_less_than_the_largest_is_refused() -> None:
    places = Places(RelayServer(max_circuits=8), ignore)
    fill(places, ATTACKER, 4)
    honest = fill(places, HONEST, 4)
    refused = Place(peer(1), peer(2))
    assert places.take(ATTACKER, refused, MANY)
    assert not any(place.lost for place in [*honest, refused])


def test_among_the_peers_of_a_network_the_largest_gives_way() -> None:
    places = Places(RelayServer(max_circuits=4), ignore)
    large = fill(places, HONEST, 4, sources=1)
    assert not places.take(HONEST, Place(peer(5), peer(6)), MANY)
    assert [place.lost for place in large] == [False, False, False, True]


def test_a_target_that_many_ask_for_is_within_reach() -> None:
    """Of an attacker's many identities, one after the other loses its place there."""
    places = Places(RelayServer(max_circuits_per_peer=4), ignore)
    target = peer(7)
    wanted = [Place(peer(number), target) for number in range(4)]
    assert not any(places.take(ATTACKER, place, MANY) for place in wanted)
    assert not places.take(HONEST, Place(peer(8), target), MANY)
    assert not places.take(HONEST, Place(target, peer(9)), MANY)  # and reaches others itself
    assert [place.lost for place in wanted] == [False, False, True, True]


def test_no_more_than_the_target_takes() -> None:
    places = Places(RelayServer(), ignore)
    target = peer(7)
    wanted = [Place(peer(number), target) for number in range(4)]
    assert not any(places.take(ATTACKER, place, 4) for place in wanted)
    assert not places.take(HONEST, Place(peer(8), target), 4)
    assert [place.lost for place in wanted] == [False, False, False, True]


def test_a_source_does_not_push_out_itself() -> None:
    places = Places(RelayServer(max_circuits_per_peer=4), ignore)
    own = fill(places, HONEST, 4, sources=1)
    assert places.take(HONEST, Place(peer(1000), peer(1)), MANY) == "max_circuits_per_peer"
    assert not any(place.lost for place in own)


def test_nobody_loses_a_place_for_one_that_is_refused() -> None:
    """The relay is full, and the source has all that one peer may have."""
    places = Places(RelayServer(max_circuits=12, max_circuits_per_peer=4), ignore)
    attacker = fill(places, ATTACKER, 8)
    fill(places, HONEST, 4, sources=1)
    assert places.take(HONEST, Place(peer(1000), peer(1)), MANY)
    assert not any(place.lost for place in attacker)


@pytest.mark.parametrize("early", [True, False])
def test_what_holds_a_lost_place_ends(early: bool) -> None:
    """Also what is told only afterwards."""
    place = Place(peer(1), peer(2))
    ended = count()
    if early:
        place.held_by(None)
        place.lose()
        assert place.lost
        place.held_by(ended.__next__)
    else:
        place.held_by(ended.__next__)
        place.lose()
    assert next(ended) == 1
