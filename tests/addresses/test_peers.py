"""The address book of a running peer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.waiting import introduced, next_event, until

from stronghold_p2p import (
    AddressBook,
    AddressSource,
    DialError,
    FirewallRules,
    Keypair,
    StateError,
    StateFailed,
    StrongholdP2p,
)
from stronghold_p2p.store.address_tables import AddressTables
from stronghold_p2p.store.database import Database

KEYPAIR = Keypair.generate()


def peer(state: Path | None = None, **arguments: Any) -> StrongholdP2p[Any, Any]:
    return StrongholdP2p(firewall=FirewallRules.allow_all(), state=state, **arguments)


async def test_a_restarted_peer_reconnects_by_peer_id_alone(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    async with peer() as bob:
        bob.on_request(lambda request: request.body)
        address = await bob.listen()
        async with peer(state) as alice:
            await introduced(alice, address)
        async with peer(state) as alice:
            assert await alice.send_request(bob.peer_id, 1) == 1
            assert {entry.source for entry in alice.addresses.entries(bob.peer_id)} == {
                AddressSource.GIVEN,  # the target of the call; identify names it, too
            }
        async with peer() as stranger:
            with pytest.raises(DialError, match="no address is known"):
                await stranger.connect(bob.peer_id)


async def test_a_restarted_peer_reaches_who_had_dialed_it(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    async with peer() as alice:
        await alice.listen()
        async with peer(state, keypair=KEYPAIR) as bob:
            address = await bob.listen()
            await alice.connect(address)
            await until(lambda: alice.peer_id in bob.addresses)
        async with peer(state, keypair=KEYPAIR) as bob:
            assert [entry.source for entry in bob.addresses.entries(alice.peer_id)] == [AddressSource.IDENTIFY]
            await bob.connect(alice.peer_id)


async def test_what_one_peer_knows_is_handed_to_another() -> None:
    async with peer() as bob, peer() as alice:
        await introduced(alice, await bob.listen())
        record = alice.addresses.record(bob.peer_id)
        assert record is not None
        exported = alice.addresses.export()
        by_export, by_record = AddressBook(), AddressBook()
        by_export.load(exported)
        by_record.certify(record)
        for book in by_export, by_record:
            async with peer(addresses=book) as carol:
                await carol.connect(bob.peer_id)


async def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    alice = peer(state)
    events = alice.events()
    async with alice:
        alice.addresses.add("/ip4/127.0.0.1/tcp/1", KEYPAIR.peer_id)
        os.unlink(state)
        assert alice._parts._address_memory is not None
        alice._parts._address_memory._write()
        failed = await next_event(events, StateFailed)
    assert failed.error.reason == "No such file or directory"


async def test_a_state_file_that_cannot_be_used_leaves_the_book_to_others(tmp_path: Path) -> None:
    book = AddressBook()
    with pytest.raises(StateError):
        await peer(tmp_path / "folder" / "state.db", addresses=book).start()
    async with peer(addresses=book):
        pass


async def test_what_changes_at_the_end_is_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    async with peer(state) as alice:
        alice.addresses.add("/ip4/127.0.0.1/tcp/1", KEYPAIR.peer_id)
    alice.addresses.add("/ip4/127.0.0.1/tcp/2", KEYPAIR.peer_id)  # closed: kept by nobody
    with Database(state) as database:
        assert len(AddressTables(database).read(10, 10)) == 1
