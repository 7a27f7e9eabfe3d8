"""Known addresses: in what order, whose word, until when, and how many."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p import (
    AddressBook,
    AddressEntry,
    AddressSource,
    Config,
    DecodeError,
    InvalidAddress,
    Keypair,
    Multiaddr,
    RemoteProtocolError,
    StrongholdP2p,
)
from stronghold_p2p.addresses.book import MAX_GIVEN, MAX_TOLD
from stronghold_p2p.encoding import messages
from stronghold_p2p.identity import PeerId
from stronghold_p2p.wire.envelope import PeerRecord, seal

PEER, OTHER = Keypair.generate().peer_id, Keypair.generate().peer_id
GIVEN, IDENTIFY, MDNS = AddressSource.GIVEN, AddressSource.IDENTIFY, AddressSource.MDNS
RECORD = AddressSource.SIGNED_RECORD


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


@pytest.mark.parametrize(("source", "limit"), [(GIVEN, MAX_GIVEN), (MDNS, MAX_TOLD)])
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
    assert len(book.get(PEER)) == MAX_TOLD


def book_with(**limits: int) -> AddressBook:
    return AddressBook(Config(**limits))


def peers(count: int) -> list[PeerId]:
    return [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(count)]


def test_nor_are_peers_without_end() -> None:
    book = book_with(max_told_addresses=100)
    everybody = peers(110)
    book.add(address(1), everybody[0])
    for peer in everybody:
        book.tell(peer, IDENTIFY, [address(2)])
    known = set(book)
    assert len(known) == 101
    assert everybody[0] in known  # what was added is not forgotten
    assert everybody[1] not in known
    assert everybody[-1] in known
    for peer in everybody[11:]:
        book.tell(peer, IDENTIFY, [address(2)])  # once more
    book.tell(OTHER, IDENTIFY, [address(1)])
    assert everybody[10] not in book
    assert everybody[11] in book


def test_what_is_given_outlives_what_is_told() -> None:
    book = book_with(max_told_addresses=10)
    everybody = peers(11)
    book.add(address(1), everybody[0])
    for peer in everybody:
        book.tell(peer, IDENTIFY, [address(2)])
    assert book.get(everybody[0]) == (address(1),)


def test_nor_is_everything_given_kept() -> None:
    book = book_with(max_given_addresses=10)
    everybody = peers(6)
    for peer in everybody[:5]:
        book.add(address(1), peer)
        book.add(address(2), peer)
    book.succeeded(everybody[0], address(1))
    book.tell(everybody[1], IDENTIFY, [address(3)])
    book.add(address(1), everybody[5])
    assert list(book) == [everybody[number] for number in (0, 1, 2, 3, 4, 5)]
    assert book.get(everybody[1]) == (address(3),)


def test_one_peer_may_fill_it() -> None:
    book = book_with(max_given_addresses=2, max_told_addresses=2)
    for port in 1, 2, 3:
        book.succeeded(PEER, address(port))
    book.tell(PEER, IDENTIFY, map(address, (4, 5, 6)))
    for port in 7, 8, 9:
        book.add(address(port), OTHER, source=MDNS)
    assert len(book.get(PEER)) == 2
    assert book.get(OTHER) == (address(8), address(9))


def test_a_network_of_many_peers_takes_nothing_from_another() -> None:
    book = book_with(max_told_addresses=100)
    honest, hostile = Multiaddr.parse("/ip4/192.0.2.1/tcp/1"), Multiaddr.parse("/ip6/2001:db8::1/tcp/1")
    book.tell(PEER, IDENTIFY, [address(1)], by=honest)
    for number, peer in enumerate(peers(300)):
        by = Multiaddr.parse(f"/ip6/2001:db8::{number:x}/tcp/1")  # one /56
        book.tell(peer, IDENTIFY, map(address, range(1, 1 + number % 16)), by=by)
    assert book.get(PEER) == (address(1),)
    for number, peer in enumerate(peers(300)):
        book.tell(peer, MDNS, [address(number + 1)])
    assert book.get(PEER) == (address(1),)
    # Shares are even in the end: two large ones, and the small one untouched.
    sources = [entry.source for peer in book for entry in book.entries(peer)]
    assert len(sources) == 100
    assert 40 <= sources.count(MDNS) <= 60
    book.tell(OTHER, IDENTIFY, [address(1)], by=hostile)  # it takes from its own
    assert OTHER in book


def test_who_hands_on_many_records_takes_nothing_from_who_hands_on_one() -> None:
    book = book_with(max_told_addresses=5)
    book.certify(record(1, 1), by=Multiaddr.parse("/ip4/192.0.2.1/tcp/1"))
    for _ in range(10):
        keypair = Keypair.generate()
        signed = PeerRecord(keypair.peer_id, 1, (address(1),)).seal(keypair)
        book.certify(signed, by=Multiaddr.parse("/ip4/192.0.2.2/tcp/1"))
    assert len(list(book)) == 5
    assert SIGNER in book


def test_what_has_led_to_the_peer_is_forgotten_late() -> None:
    book = book_with(max_told_addresses=4)
    everybody = peers(6)
    for peer in everybody[:4]:
        book.tell(peer, IDENTIFY, [address(1)])
    book.succeeded(everybody[0], address(1))
    for peer in everybody[4:]:
        book.tell(peer, IDENTIFY, [address(1)])
    assert list(book) == [everybody[number] for number in (0, 3, 4, 5)]


@pytest.mark.parametrize(
    "unusable",
    [
        address(1).with_peer(OTHER),
        Multiaddr.parse(f"/p2p/{PEER}"),
        Multiaddr.parse("/dns/" + "a" * 510),
        Multiaddr.parse("/ws" * 17),
        Multiaddr.parse("/unix/tmp/socket"),
    ],
    ids=["of another", "nothing but the peer", "long", "of many components", "a path"],
)
def test_what_cannot_be_used_is_left_out(unusable: Multiaddr) -> None:
    book = AddressBook()
    book.tell(PEER, MDNS, [unusable, address(2)])
    assert book.get(PEER) == (address(2),)


def test_telling() -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    book.tell(str(PEER), MDNS, [address(1), address(2).with_peer(PEER)], expires=clock.now + 60)
    assert book.entries(PEER) == tuple(AddressEntry(address(port), MDNS, clock.now + 60) for port in (1, 2))
    clock.now += 30
    book.tell(PEER, MDNS, [address(2)], expires=clock.now + 60)
    assert book.entries(PEER) == (AddressEntry(address(2), MDNS, clock.now + 60),)
    book.tell(PEER, MDNS, [address(2)], expires=clock.now)
    assert PEER not in book
    with pytest.raises(ValueError, match="use add"):
        book.tell(PEER, GIVEN, [address(1)])
    with pytest.raises(InvalidAddress):
        book.tell("nobody", MDNS, [])


def test_only_so_many_are_looked_at() -> None:
    book = AddressBook()
    book.tell(PEER, MDNS, itertools.repeat(address(1)))
    assert book.get(PEER) == (address(1),)


def test_failures_are_forgotten_when_the_network_changes() -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    book.tell(PEER, IDENTIFY, [address(1), address(2)])
    book.succeeded(PEER, address(1))
    for port in 1, 2:
        book.failed(PEER, address(port))
    book.network_changed()
    assert book.entries(PEER) == (
        AddressEntry(address(1), IDENTIFY, last_success=clock.now),
        AddressEntry(address(2), IDENTIFY),
    )


async def test_it_belongs_to_one_peer_at_a_time() -> None:
    book = AddressBook()
    book.add(address(1), PEER)
    other = StrongholdP2p(addresses=book)
    async with StrongholdP2p(addresses=book) as peer:
        assert peer.addresses is book
        with pytest.raises(RuntimeError, match="belongs to another peer"):
            await other.start()
    async with other:
        assert other.addresses.get(PEER) == (address(1),)
    await other.close()


def test_the_limits_of_a_book_are_those_of_its_peer() -> None:
    peer: StrongholdP2p[object, object] = StrongholdP2p(config=Config(max_given_addresses=1))
    for port in 1, 2:
        peer.addresses.add(address(port), peers(2)[port - 1])
    assert list(peer.addresses) == peers(2)[1:]


# -- signed records -----------------------------------------------------------------------------------


KEYPAIR = Keypair.generate()
SIGNER = KEYPAIR.peer_id


def record(seq: int, *ports: int) -> bytes:
    return PeerRecord(SIGNER, seq, tuple(map(address, ports))).seal(KEYPAIR)


def forged(seq: int, *ports: int) -> bytes:
    signed = record(seq, *ports)
    return signed[:-1] + bytes([signed[-1] ^ 1])


def test_a_record_is_preferred_to_what_is_not_signed() -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    book.tell(SIGNER, IDENTIFY, [address(1), address(2)])
    assert book.certify(record(1, 2, 3), expires=clock.now + 60) == SIGNER
    assert [(entry.address, entry.source) for entry in book.entries(SIGNER)] == [
        (address(2), RECORD),
        (address(3), RECORD),
        (address(1), IDENTIFY),
    ]
    clock.now += 60
    assert book.get(SIGNER) == (address(1), address(2))


def test_the_newest_record_counts() -> None:
    book = AddressBook()
    book.certify(record(7, 1))
    with pytest.raises(RemoteProtocolError, match="expected number 7 or above, got an older one, 6"):
        book.certify(record(6, 2))
    assert book.get(SIGNER) == (address(1),)
    book.certify(record(7, 1))  # from another
    book.certify(record(8, 3))
    assert book.get(SIGNER) == (address(3),)
    assert book.record(SIGNER) == record(8, 3)


def test_records_that_are_refused() -> None:
    clock = Clock()
    book = AddressBook(clock=clock)
    foreign = seal(
        KEYPAIR, "libp2p-peer-record", b"\x03\x01", messages.PeerRecord(peer_id=bytes(PEER)).SerializeToString()
    )
    other_domain = seal(
        KEYPAIR, "libp2p-routing-state", b"\x03\x01", messages.PeerRecord(peer_id=bytes(SIGNER)).SerializeToString()
    )
    for data, reason in (
        (foreign, "signed by another peer"),
        (forged(1, 1), "signature"),
        (other_domain, "signature"),
        (record(1, 1)[:-9], "envelope"),
        (b"", "payload type"),
        (record(1, *range(1, 300)), "at most 2048 bytes, got"),
    ):
        with pytest.raises(RemoteProtocolError, match=reason):
            book.certify(data)
    with pytest.raises(RemoteProtocolError, match="expired 5 s ago"):
        book.certify(record(1, 1), expires=clock.now - 5)
    assert list(book) == []


def test_a_forged_record_does_not_stand_in_the_way_of_a_true_one() -> None:
    book = AddressBook()
    book.certify(record(1, 1))
    with pytest.raises(DecodeError):
        book.certify(forged(2**60, 2))
    book.hold_record(PEER, record(2**60, 2))  # of another peer than who told it
    book.certify(record(2, 3))
    assert book.get(SIGNER) == (address(3),)


def test_a_record_that_its_peer_has_told_is_handed_on() -> None:
    book, other = AddressBook(), AddressBook()
    book.hold_record(SIGNER, record(1, 1))
    assert book.record(SIGNER) is None  # nobody would look for it
    book.tell(SIGNER, IDENTIFY, [address(1)])
    assert book.record(SIGNER) is None
    for held in record(5, 1), record(4, 2), b"none", record(6, *range(1, 300)), b"":
        book.hold_record(SIGNER, held)
    handed_on = book.record(SIGNER)
    assert handed_on == record(5, 1)
    assert other.certify(handed_on) == SIGNER
    with pytest.raises(RemoteProtocolError, match="older"):
        book.certify(record(4, 2))


def test_a_record_that_does_not_verify_is_not_handed_on() -> None:
    book = AddressBook()
    book.tell(SIGNER, IDENTIFY, [address(1)])
    book.hold_record(SIGNER, forged(1, 1))
    assert book.record(SIGNER) is None
    assert book.get(SIGNER) == (address(1),)


# -- a model ------------------------------------------------------------------------------------------


class Model:
    """What the book should hold: addresses by peer and source; no limits, and no results of dials."""

    def __init__(self) -> None:
        self.named: dict[tuple[PeerId, AddressSource], dict[Multiaddr, float | None]] = {}

    def addresses(self, peer: PeerId, now: float) -> set[Multiaddr]:
        return {
            one
            for (other, _), named in self.named.items()
            for one, expires in named.items()
            if other == peer and (expires is None or expires > now)
        }


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "tell", "remove", "succeeded", "failed", "wait", "export"]),
        st.integers(0, 2),
        st.sampled_from([GIVEN, IDENTIFY, MDNS]),
        st.lists(st.integers(1, 5), min_size=1, max_size=4),
        st.sampled_from([None, 10.0, 20.0]),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_book_is_what_its_model_is(
    steps: list[tuple[str, int, AddressSource, list[int], float | None]],
) -> None:
    clock, model = Clock(), Model()
    book = AddressBook(clock=clock)
    everybody = peers(3)
    for what, number, source, ports, seconds in steps:
        peer, first = everybody[number], address(ports[0])
        expires = None if seconds is None else clock.now + seconds
        if what == "add":
            book.add(first, peer, source=source, expires=expires)
            model.named.setdefault((peer, source), {})[first] = expires
        elif what == "tell" and source is not GIVEN:
            book.tell(peer, source, map(address, ports), expires=expires)
            model.named[peer, source] = dict.fromkeys(map(address, ports), expires)
        elif what == "remove":
            book.remove(first, peer)
            for (other, _), named in model.named.items():
                if other == peer:
                    named.pop(first, None)
        elif what == "succeeded" and first in book.get(peer):
            book.succeeded(peer, first)
        elif what == "failed":
            book.failed(peer, first)
        elif what == "wait":
            clock.now += 10
        elif what == "export":
            exported, before = book.export(), {peer: book.entries(peer) for peer in book}
            book = AddressBook(clock=clock)
            book.load(exported)
            assert {peer: set(entries) for peer, entries in before.items()} == {
                peer: set(book.entries(peer)) for peer in book
            }
        for peer in everybody:
            assert set(book.get(peer)) == model.addresses(peer, clock.now)
    assert book._told.used + book._given_count == sum(1 for _ in book.named())
