"""Exports of an address book, and what may be wrong with them."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import pytest

from stronghold_p2p import AddressBook, AddressBookError, AddressEntry, AddressSource, Config, Keypair, Multiaddr
from stronghold_p2p.wire.envelope import PeerRecord

KEYPAIR = Keypair.generate()
PEER, OTHER = KEYPAIR.peer_id, Keypair.generate().peer_id
NOW = 1_000_000.0
GIVEN, IDENTIFY, MDNS = AddressSource.GIVEN, AddressSource.IDENTIFY, AddressSource.MDNS


def address(port: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")


def book(**limits: int) -> AddressBook:
    return AddressBook(Config(**limits), clock=lambda: NOW)


def full() -> AddressBook:
    made = book()
    made.add(address(1), PEER)
    made.tell(PEER, IDENTIFY, [address(1), address(2)], by=Multiaddr.parse("/ip4/192.0.2.1/tcp/1"))
    made.tell(OTHER, MDNS, [address(3)], expires=NOW + 60)
    made.succeeded(PEER, address(2))
    made.failed(PEER, address(1))
    made.failed(PEER, address(1))
    made.hold_record(PEER, PeerRecord(PEER, 5, (address(2),)).seal(KEYPAIR))
    return made


def test_what_is_documented() -> None:
    exported = json.loads(full().export())
    peer, network = str(PEER), ["192.0.2.1/32"]
    failures = {"last_failure": NOW, "failures": 2}
    one, two, three = (str(address(port)) for port in (1, 2, 3))
    record = exported.pop("records")
    assert sorted(exported.pop("addresses"), key=lambda each: (each["source"], each["address"])) == [
        {"peer": peer, "address": one, "source": "given", **failures},
        {"peer": peer, "address": one, "source": "identify", "told_by": network, **failures},
        {"peer": peer, "address": two, "source": "identify", "told_by": network, "last_success": NOW},
        {"peer": str(OTHER), "address": three, "source": "mdns", "expires": NOW + 60, "told_by": ["mdns"]},
    ]
    assert exported == {"version": 1}
    assert len(record) == 1


def test_what_is_exported_is_loaded() -> None:
    loaded = book()
    loaded.load(full().export())
    assert set(loaded) == {PEER, OTHER}
    for peer in PEER, OTHER:
        assert set(loaded.entries(peer)) == set(full().entries(peer))
    assert loaded.record(PEER) == full().record(PEER)
    assert set(loaded.named()) == set(full().named())


def test_what_is_known_is_not_displaced() -> None:
    loaded = book()
    loaded.tell(PEER, IDENTIFY, map(address, range(3, 18)))
    loaded.succeeded(PEER, address(3))
    known = loaded.entries(PEER)
    for _ in "once", "again":
        loaded.load(full().export())
        assert set(known) <= set(loaded.entries(PEER))
        assert len(loaded.get(PEER)) == 16  # of the two that are new, identify has room for one
    given = book()
    for port in range(100, 164):
        given.add(address(port), PEER)
    given.load(full().export())
    assert address(1) in given.get(PEER)  # by identify
    assert len([entry for entry in given.entries(PEER) if entry.source is GIVEN]) == 64


def test_its_networks_still_share() -> None:
    """A file is not one teller that gives way as a whole."""
    loaded = book(max_told_addresses=4)
    loaded.load(full().export())
    for number in range(20):
        loaded.tell(
            Keypair.generate().peer_id, IDENTIFY, [address(number + 1)], by=Multiaddr.parse("/ip4/192.0.2.9/tcp/1")
        )
    assert loaded.get(OTHER) == (address(3),)


def entry(**changes: Any) -> dict[str, Any]:
    """An address of an export, with changes; None leaves a field out."""
    each = {"peer": str(PEER), "address": str(address(1)), "source": "given"} | changes
    return {key: value for key, value in each.items() if value is not None}


def of(*entries: Any, **changes: Any) -> bytes:
    return json.dumps({"version": 1, "addresses": entries} | changes).encode()


def one(**changes: Any) -> bytes:
    return of(entry(**changes))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "JSON"),
        (b"nonsense", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "JSON"),
        (b"{}", "version"),
        (b'{"version": 1}', "addresses"),
        (b'{"version": "1", "addresses": []}', "version"),
        (b'{"version": 2, "addresses": {}}', "expected version 1, got 2"),
        (b'{"version": 0, "addresses": []}', "expected version 1, got 0"),
        (b'{"version": 1, "addresses": [1]}', "addresses"),
        (b'{"version": 1, "addresses": [], "records": ["%"]}', "base64"),
        (b'{"version": 1, "x": ' + b"[" * 100_000, "JSON"),
        (b'{"version": 1, "x": ' + b'{"x":' * 100_000, "JSON"),
        (one(peer=None), "peer"),
        (one(peer=1), "peer"),
        (one(peer="nobody"), "a peer id"),
        (one(address=None), "address"),
        (one(address=[]), "address"),
        (one(address=str(address(1).with_peer(OTHER))), "an address of"),
        (one(address=f"/p2p/{PEER}"), "an address of"),
        (one(source="hearsay"), "hearsay"),
        (one(source=None), "source"),
        (one(expires="tomorrow"), "expires"),
        (one(expires=-1), "expires"),
        (one(last_success=float("inf")), "JSON"),
        (one(last_success=float("nan")), "JSON"),
        (one(last_failure=True), "last_failure"),
        (one(failures=-1), "failures"),
        (one(failures=10**400), "failures"),
        (one(failures=2**64), "failures"),
        (one(told_by="192.0.2.1"), "told_by"),
        (one(told_by=["x"] * 5), "told_by"),
        (one(address="/ip4/" + "1" * 5000), "address"),
    ],
)
def test_what_is_no_export_is_refused_and_nothing_of_it_is_taken(data: bytes, reason: str) -> None:
    loaded = full()
    before = loaded.export()
    behind = data.replace(b'"addresses": [{', b'"addresses": [' + json.dumps(entry(source="mdns")).encode() + b", {")
    for whole in data, behind:
        with pytest.raises(AddressBookError, match=reason) as raised:
            loaded.load(whole)
        assert reason in raised.value.reason
        assert loaded.export() == before


def test_what_is_no_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="expected bytes, got str"):
        book().load(full().export().decode())  # type: ignore[arg-type]


def test_a_file_that_is_cut_short() -> None:
    exported = full().export()
    loaded = book()
    for length in range(len(exported)):
        with pytest.raises(AddressBookError):
            loaded.load(exported[:length])
    assert list(loaded) == []


@pytest.mark.parametrize("seed", range(50))
def test_damage_is_an_address_book_error_and_nothing_else(seed: int) -> None:
    numbers = random.Random(seed)
    damaged = bytearray(full().export())
    for _ in range(numbers.choice([1, 4, 64])):
        damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
    loaded = book()
    try:
        loaded.load(bytes(damaged))
    except AddressBookError:
        assert list(loaded) == []
    else:
        loaded.export()


def test_too_many_addresses_are_refused_before_they_take_memory() -> None:
    for each in json.dumps(entry()).encode(), b"1", b'""', b"{}":
        million = b'{"version":1,"addresses":[' + b",".join([each] * 1_000_000) + b"]}"
        loaded = full()
        before = loaded.export()
        tracemalloc.start()
        try:
            with pytest.raises(AddressBookError, match=r"expected at most 32,768 addresses|JSON"):
                loaded.load(million)
            assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        finally:
            tracemalloc.stop()
        assert loaded.export() == before


def test_just_too_many_addresses_are_refused() -> None:
    loaded = book(max_given_addresses=1, max_told_addresses=2)
    entries = [entry(address=str(address(port)), source="identify") for port in range(1, 5)]
    with pytest.raises(AddressBookError, match=r"expected at most 3 addresses.* got 4 or more"):
        loaded.load(of(*entries))
    loaded.load(of(*entries[:2], entry(address=str(address(9)))))
    assert loaded.get(PEER) == (address(9), address(1), address(2))


def test_addresses_of_a_later_program_are_left_out() -> None:
    exported = json.loads(full().export())
    exported["addresses"] += [entry(address="/carrier-pigeon/3/tcp/1")]
    exported["later"] = {"a": [1, 2, 3]}
    exported["records"] += ["", "AAAA"]
    loaded = book()
    loaded.load(json.dumps(exported).encode())
    assert set(loaded.named()) == set(full().named())


def test_its_own_peer_may_stand_at_the_end_of_an_address() -> None:
    loaded = book()
    loaded.load(one(address=str(address(1).with_peer(PEER))))
    assert loaded.get(PEER) == (address(1),)


def test_dates_that_lie_in_the_past_or_far_ahead() -> None:
    loaded = book()
    loaded.load(one(expires=NOW))
    loaded.load(one(expires=0))
    assert list(loaded) == []
    loaded.load(one(expires=1e300, last_success=1e300, last_failure=NOW + 1, failures=2**31))
    assert loaded.entries(PEER) == (AddressEntry(address(1), GIVEN, 1e300, NOW, NOW, 2**31),)
    loaded.load(one(last_success=5))
    assert [entry.last_success for entry in loaded.entries(PEER)] == [NOW]  # what is known counts
