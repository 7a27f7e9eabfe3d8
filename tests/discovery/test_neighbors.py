from __future__ import annotations

import pytest

from stronghold_p2p import Multiaddr, PeerId
from stronghold_p2p.discovery.neighbors import MAX_ADDRESSES, MAX_TTL, Change, Neighbors
from stronghold_p2p.discovery.texts import Sighting

ALICE, BOB, CAROL = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([number]) * 32) for number in range(3))
HOME = ("10.0.0.1/32", "10.0.0.1")
OTHER = ("10.0.0.2/32", "10.0.0.2")
A, B, C = (Multiaddr.parse(f"/ip4/10.0.0.{number}/tcp/1") for number in range(3))


class Displaced(list[tuple[str, ...]]):
    def __call__(self, sender: tuple[str, ...]) -> None:
        self.append(sender)


@pytest.fixture
def displaced() -> Displaced:
    return Displaced()


@pytest.fixture
def neighbors(displaced: Displaced) -> Neighbors:
    return Neighbors(ALICE, 4, displaced)


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32))


def test_a_peer_is_new_once_and_again_when_its_addresses_differ(neighbors: Neighbors) -> None:
    assert BOB not in neighbors
    assert neighbors.heard([Sighting(BOB, A, 120)], HOME, 0.0) == [Change(BOB, (A,), 120.0, True)]
    assert BOB in neighbors
    assert neighbors.heard([Sighting(BOB, A, 120)], HOME, 60.0) == [Change(BOB, (A,), 180.0, False)]
    assert neighbors.heard([Sighting(BOB, B, 60)], HOME, 70.0) == [Change(BOB, (B, A), 180.0, True)]
    assert neighbors.heard([Sighting(BOB, A, 120), Sighting(BOB, B, 120)], HOME, 80.0) == [
        Change(BOB, (A, B), 200.0, False)
    ]
    assert neighbors.addresses(BOB) == (A, B)


def test_our_own_announcement_is_ignored(neighbors: Neighbors) -> None:
    assert neighbors.heard([Sighting(ALICE, A, 120)], HOME, 0.0) == []


def test_an_address_expires_when_its_time_has_run_out(neighbors: Neighbors) -> None:
    assert neighbors.next_expiry == float("inf")
    neighbors.heard([Sighting(BOB, A, 120), Sighting(BOB, B, 60), Sighting(CAROL, C, 100)], HOME, 0.0)
    assert neighbors.next_expiry == 60.0
    assert neighbors.expire(59.0) == []
    assert neighbors.expire(60.0) == [Change(BOB, (A,), 120.0, True)]
    assert neighbors.next_expiry == 100.0
    neighbors.heard([Sighting(CAROL, C, 100)], HOME, 90.0)
    assert neighbors.expire(100.0) == []
    assert neighbors.expire(200.0) == [Change(BOB, (), 200.0, True), Change(CAROL, (), 200.0, True)]
    assert BOB not in neighbors
    assert neighbors.next_expiry == float("inf")


def test_a_goodbye_ends_what_it_names(neighbors: Neighbors) -> None:
    assert neighbors.heard([Sighting(BOB, A, 0)], HOME, 0.0) == []
    neighbors.heard([Sighting(BOB, A, 120), Sighting(BOB, B, 120)], HOME, 1.0)
    assert neighbors.heard([Sighting(BOB, C, 0), Sighting(BOB, A, 0)], HOME, 2.0) == [Change(BOB, (B,), 121.0, True)]
    assert neighbors.heard([Sighting(BOB, B, 0)], HOME, 3.0) == [Change(BOB, (), 3.0, True)]
    assert neighbors.addresses(BOB) == ()


def test_nobody_is_remembered_for_ever(neighbors: Neighbors) -> None:
    ((_, _, expires, _),) = neighbors.heard([Sighting(BOB, A, 2**32 - 1)], HOME, 0.0)
    assert expires == MAX_TTL


def test_a_peer_has_a_limited_number_of_addresses_the_last_ones(neighbors: Neighbors) -> None:
    addresses = [Multiaddr.parse(f"/ip4/10.0.0.1/tcp/{port + 1}") for port in range(MAX_ADDRESSES + 1)]
    for address in addresses:
        neighbors.heard([Sighting(BOB, address, 120)], HOME, 0.0)
    assert set(neighbors.addresses(BOB)) == set(addresses[1:])
    ((_, told, _, _),) = neighbors.heard([Sighting(CAROL, address, 120) for address in addresses], HOME, 0.0)
    assert list(told) == addresses[:-1]


def test_who_announces_most_gives_way(neighbors: Neighbors, displaced: Displaced) -> None:
    neighbors.heard([Sighting(BOB, A, 120)], OTHER, 0.0)
    changes = neighbors.heard([Sighting(peer(number), B, 120) for number in range(10, 1010)], HOME, 0.0)
    gone = [change.peer for change in changes if not change.addresses]
    assert gone == [peer(number) for number in range(10, 1007)], "the oldest of that sender first"
    assert displaced == [HOME] * len(gone)
    assert BOB in neighbors
    neighbors.heard([Sighting(CAROL, A, 120)], OTHER, 0.0)
    assert {BOB, CAROL, peer(1008), peer(1009)} == {
        one for one in (BOB, CAROL, *map(peer, range(10, 1010))) if one in neighbors
    }


def test_places_are_free_again(neighbors: Neighbors, displaced: Displaced) -> None:
    for now in (0.0, 200.0):
        neighbors.heard([Sighting(peer(number), A, 120) for number in range(10, 14)], HOME, now)
        assert len(neighbors.expire(now + 120.0)) == 4
    assert displaced == []
