"""Addresses in a state file, as commands look them up."""

from __future__ import annotations

from pathlib import Path

from stronghold_p2p.addresses.entry import AddressSource, NamedAddress
from stronghold_p2p.multiaddr import Multiaddr
from stronghold_p2p.store.address_tables import AddressTables
from stronghold_p2p.store.database import Database

from .conftest import ALICE, BOB, CAROL

ADDRESSES = [Multiaddr.parse(f"/ip4/192.0.2.{number}/tcp/1") for number in range(4)]


def test_where_a_peer_was_reached_last(path: Path) -> None:
    def entry(number: int, last_success: float | None) -> NamedAddress:
        return NamedAddress(ALICE, ADDRESSES[number], AddressSource.GIVEN, last_success=last_success)

    never = NamedAddress(BOB, ADDRESSES[3], AddressSource.IDENTIFY)
    with Database(path) as database:
        table = AddressTables(database)
        table.write([entry(0, 10.0), entry(1, 20.0), entry(2, None), never], [])
        assert [table.latest(peer) for peer in (ALICE, BOB, CAROL)] == [ADDRESSES[1], ADDRESSES[3], None]
