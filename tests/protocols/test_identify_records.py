"""Signed records: one for each set of addresses, and none that a peer takes for an old one."""

from __future__ import annotations

from itertools import count

from stronghold_p2p import Keypair, Multiaddr, PeerId
from stronghold_p2p.protocols.identify.records import MAX_PEERS, MAX_RECORDS, Records
from stronghold_p2p.wire.envelope import PeerRecord

KEY = Keypair.generate()
ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id
HERE, THERE = ((Multiaddr.parse(f"/ip4/1.2.3.{number}/tcp/1"),) for number in (1, 2))


class Told:
    """What peers are told, by a clock that counts."""

    def __init__(self, start: int = 1) -> None:
        self.records = Records(count(start).__next__)

    def __call__(self, peer: PeerId, addresses: tuple[Multiaddr, ...]) -> PeerRecord:
        record = self.records.record_for(peer, addresses, KEY)
        assert record is not None
        opened = PeerRecord.open(record)
        assert (opened.peer_id, opened.addresses) == (KEY.peer_id, addresses)
        return opened


def test_each_set_is_signed_once() -> None:
    tell = Told()
    assert tell(ALICE, HERE).seq == tell(BOB, HERE).seq == tell(ALICE, HERE).seq == 1
    assert tell(BOB, THERE).seq == 2
    assert tell(ALICE, HERE).seq == 1


def test_a_peer_that_is_told_another_set_takes_it() -> None:
    tell = Told()
    numbers = [tell(ALICE, addresses).seq for addresses in (HERE, THERE, HERE, THERE, HERE)]
    assert numbers == sorted(set(numbers))
    assert tell(BOB, THERE).seq == 4  # one who has heard nothing takes the last that was signed
    assert tell(BOB, HERE).seq == 5


def test_numbers_grow_though_the_clock_does_not() -> None:
    times = iter([7, 7, 3])
    records = Records(times.__next__)
    told = [records.record_for(ALICE, addresses, KEY) for addresses in (HERE, THERE, HERE)]
    assert [PeerRecord.open(record).seq for record in told if record] == [7, 8, 9]


def test_what_was_told_in_another_network_is_signed_anew() -> None:
    tell = Told()
    tell(ALICE, HERE)
    tell(ALICE, THERE)
    tell.records.clear()
    assert tell(BOB, HERE).seq == 3


def test_without_addresses_there_is_no_record() -> None:
    assert Records().record_for(ALICE, (), KEY) is None


def test_what_is_kept_is_bounded() -> None:
    tell = Told()
    for number in range(2 * MAX_RECORDS):
        tell(ALICE, (Multiaddr.parse(f"/ip4/1.2.4.{number}/tcp/1"),))
    assert len(tell.records._records) == MAX_RECORDS
    for number in range(2 * MAX_PEERS):
        tell.records.record_for(PeerId(b"\x00\x04" + number.to_bytes(4)), HERE, KEY)
    assert len(tell.records._heard) == MAX_PEERS
