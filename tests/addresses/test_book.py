"""Known addresses: in what order, whose word, until when, and how many."""

from __future__ import annotations

import pytest

from stronghold_p2p import AddressBook, AddressEntry, AddressSource, InvalidAddress, Keypair, Multiaddr
from stronghold_p2p.addresses.book import MAX_GIVEN_ADDRESSES, MAX_TOLD_ADDRESSES, MAX_TOLD_PEERS
from stronghold_p2p.identity import PeerId

PEER, OTHER = Keypair.generate().peer_id, Keypair.generate().peer_id
GIVEN, IDENTIFY, MDNS = AddressSource.GIVEN, AddressSource.IDENTIFY, AddressSource.MDNS


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def address(port: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")


def test_added_addresses_come_in_order_then_those_that_the_peer_told() -> None:
    book = AddressBook()
    book.tell(PEER, IDENTIFY, [address(3), address(1)])
    book.add(address(2), PEER)
    book.add(str(address(1)), str(PEER))
    book.add(address(1), PEER)
    assert book.get(PEER) == (address(2), address(1), address(3))
    assert book.get(str(PEER)) == book.get(PEER)


def test_the_peer_may_stand_in_the_address() -> None:
    book = AddressBook()
    book.add(address(1).with_peer(PEER))
    book.add(str(address(2).with_peer(PEER)), PEER)
    assert book.get(PEER) == (address(1), address(2))
    assert PEER in book
    assert OTHER not in book
    assert list(book) == [PEER]


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("nonsense", PEER),
        ("/ip4/127.0.0.1/tcp/1", None),
        (str(address(1).with_peer(OTHER)), PEER),
        ("/ip4/127.0.0.1/tcp/1", "nonsense"),
    ],
    ids=["malformed", "nobody", "another", "no peer"],
)
def test_addresses_that_cannot_be_added(text: str, peer: PeerId | str | None) -> None:
    book = AddressBook()
    for change in book.add, book.remove:
        with pytest.raises(InvalidAddress):
            change(text, peer)
    assert list(book) == []


def test_removing() -> None:
    book = AddressBook()
    book.add(address(1), PEER)
    book.tell(PEER, IDENTIFY, [address(1), address(2)])
    book.remove(address(9), PEER)
    book.remove(address(9), OTHER)
    book.remove(address(1).with_peer(PEER))
    assert book.get(PEER) == (address(2),)
    book.remove(address(2), PEER)
    assert PEER not in book
    assert book.get(PEER) == ()


def test_a_peers_new_word_replaces_the_old_one() -> None:
    book = AddressBook()
    book.tell(PEER, IDENTIFY, [address(1).with_peer(PEER), address(1)])
    assert book.get(PEER) == (address(1),)
    book.tell(PEER, IDENTIFY, [address(2)])
    assert book.get(PEER) == (address(2),)
    book.tell(PEER, IDENTIFY, [])
    assert PEER not in book


def test_entries_tell_who_named_an_address_first_of_all() -> None:
    book = AddressBook()
    book.tell(PEER, IDENTIFY, [address(1), address(2)])
    book.add(address(2), PEER)
    book.add(address(3), PEER, source=MDNS, expires=2**40)
    book.add(address(1), PEER, source=MDNS, expires=2**40)
    assert book.entries(PEER) == (
        AddressEntry(address(2), GIVEN),
        AddressEntry(address(1), IDENTIFY),
        AddressEntry(address(3), MDNS, expires=2**40),
    )
    assert book.entries(str(PEER)) == book.entries(PEER)
    assert book.entries(OTHER) == ()


def test_what_one_source_takes_back_another_may_still_name() -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    book.tell(PEER, IDENTIFY, [address(1)])
    book.add(address(1), PEER, source=MDNS, expires=clock.now + 120)
    book.tell(PEER, IDENTIFY, [])
    assert book.entries(PEER) == (AddressEntry(address(1), MDNS, expires=clock.now + 120),)
    book.tell(PEER, IDENTIFY, [address(1)])
    clock.now += 120
    assert book.entries(PEER) == (AddressEntry(address(1), IDENTIFY),)


def test_an_address_expires_when_its_last_source_does() -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    book.add(address(1), PEER, source=MDNS, expires=clock.now + 60)
    book.add(address(1), PEER, source=AddressSource.DNSADDR, expires=clock.now + 120)
    assert [entry.expires for entry in book.entries(PEER)] == [clock.now + 120]
    clock.now += 60
    book.add(address(1), PEER, source=MDNS, expires=clock.now + 30)  # told anew
    assert [entry.source for entry in book.entries(PEER)] == [MDNS]
    clock.now += 60
    assert book.get(PEER) == ()
    assert PEER not in book
    assert list(book) == []


def test_outcomes() -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    book.tell(PEER, IDENTIFY, [address(1), address(2)])
    book.failed(PEER, address(1))
    clock.now += 10
    book.failed(PEER, address(1))
    (entry, other) = book.entries(PEER)
    assert (entry.failures, entry.last_failure, entry.last_success) == (2, clock.now, None)
    assert (other.failures, other.last_failure) == (0, None)
    clock.now += 10
    book.succeeded(PEER, address(1))
    (entry, _) = book.entries(PEER)
    assert (entry.failures, entry.last_failure, entry.last_success) == (0, None, clock.now)
    assert entry.source is IDENTIFY
    worked = clock.now
    clock.now += 10
    book.failed(PEER, address(1))
    (entry, _) = book.entries(PEER)
    assert (entry.failures, entry.last_failure, entry.last_success) == (1, clock.now, worked)
    book.tell(PEER, IDENTIFY, [])
    book.tell(PEER, IDENTIFY, [address(1)])
    assert book.entries(PEER) == (AddressEntry(address(1), IDENTIFY),)  # forgotten with the address


def test_the_target_of_a_call_is_kept_once_it_led_to_the_peer() -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    book.failed(PEER, address(1))
    assert PEER not in book
    book.succeeded(PEER, address(1))
    assert book.entries(PEER) == (AddressEntry(address(1), GIVEN, last_success=clock.now),)


@pytest.mark.parametrize(("source", "limit"), [(GIVEN, MAX_GIVEN_ADDRESSES), (MDNS, MAX_TOLD_ADDRESSES)])
def test_one_address_too_many_displaces_the_one_with_the_oldest_success(source: AddressSource, limit: int) -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    for port in range(1, limit + 1):
        book.add(address(port), PEER, source=source)
        if port != 2:
            clock.now += 1
            book.succeeded(PEER, address(port))
    book.tell(PEER, IDENTIFY, [address(9000)])  # another source has its own room
    for port, displaced in (1001, 2), (1002, 1001), (1003, 1002):
        book.add(address(port), PEER, source=source)
        left = book.get(PEER)
        assert address(port) in left
        assert address(displaced) not in left
        assert address(9000) in left
        assert len(left) == limit + 1
    book.succeeded(PEER, address(1003))
    book.add(address(1004), PEER, source=source)
    assert address(1) not in book.get(PEER)


def test_a_peer_is_not_believed_without_end() -> None:
    book = AddressBook()
    book.tell(PEER, IDENTIFY, map(address, range(1, 1000)))
    assert len(book.get(PEER)) == MAX_TOLD_ADDRESSES


def test_nor_are_peers_without_end() -> None:
    book = AddressBook()
    peers = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(MAX_TOLD_PEERS + 10)]
    book.add(address(1), peers[0])
    for peer in peers:
        book.tell(peer, IDENTIFY, [address(2)])
    known = set(book)
    assert len(known) == MAX_TOLD_PEERS + 1
    assert peers[0] in known  # what was added is not forgotten
    assert peers[1] not in known
    assert peers[-1] in known
    for peer in peers[11:]:
        book.add(address(3), peer, source=MDNS)  # heard of again, by whomever
    book.tell(OTHER, IDENTIFY, [address(1)])
    assert peers[10] not in book
    assert peers[11] in book


def test_what_is_given_outlives_what_is_told() -> None:
    book = AddressBook()
    peers = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(MAX_TOLD_PEERS + 1)]
    book.add(address(1), peers[0])
    for peer in peers:
        book.tell(peer, IDENTIFY, [address(2)])
    assert book.get(peers[0]) == (address(1),)
