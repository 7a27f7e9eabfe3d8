"""Known addresses: in what order, whose word, and how many."""

from __future__ import annotations

import pytest

from stronghold_p2p import AddressBook, InvalidAddress, Keypair, Multiaddr
from stronghold_p2p.addresses.book import MAX_LEARNED_ADDRESSES, MAX_LEARNED_PEERS
from stronghold_p2p.identity import PeerId

PEER, OTHER = Keypair.generate().peer_id, Keypair.generate().peer_id


def address(port: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")


def test_added_addresses_come_in_order_then_those_that_the_peer_told() -> None:
    book = AddressBook()
    book.learn(PEER, [address(3), address(1)])
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
    book.learn(PEER, [address(1), address(2)])
    book.remove(address(9), PEER)
    book.remove(address(9), OTHER)
    book.remove(address(1).with_peer(PEER))
    assert book.get(PEER) == (address(2),)
    book.remove(address(2), PEER)
    assert PEER not in book
    assert book.get(PEER) == ()


def test_a_peers_new_word_replaces_the_old_one() -> None:
    book = AddressBook()
    book.learn(PEER, [address(1).with_peer(PEER), address(1)])
    assert book.get(PEER) == (address(1),)
    book.learn(PEER, [address(2)])
    assert book.get(PEER) == (address(2),)
    book.learn(PEER, [])
    assert PEER not in book


def test_a_peer_is_not_believed_without_end() -> None:
    book = AddressBook()
    book.learn(PEER, map(address, range(1, 1000)))
    assert len(book.get(PEER)) == MAX_LEARNED_ADDRESSES


def test_nor_are_peers_without_end() -> None:
    book = AddressBook()
    peers = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(MAX_LEARNED_PEERS + 10)]
    book.add(address(1), peers[0])
    for peer in peers:
        book.learn(peer, [address(2)])
    known = set(book)
    assert len(known) == MAX_LEARNED_PEERS + 1
    assert peers[0] in known  # what was added is not forgotten
    assert peers[1] not in known
    assert peers[-1] in known
