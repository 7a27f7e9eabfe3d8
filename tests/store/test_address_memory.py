"""The address book in a state file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Self

import pytest
from support.state import opened
from support.waiting import settled, until

from stronghold_p2p import AddressBook, AddressSource, Config, Multiaddr
from stronghold_p2p.addresses.entry import NamedAddress
from stronghold_p2p.errors import ClosedError, StateError
from stronghold_p2p.store import address_memory as address_memory_module
from stronghold_p2p.store.address_memory import AddressMemory
from stronghold_p2p.store.address_tables import AddressTables
from stronghold_p2p.store.database import MIGRATIONS, Database
from stronghold_p2p.store.database_thread import DatabaseThread

from .conftest import ALICE, BOB, CAROL, peer

GIVEN, IDENTIFY, MDNS = AddressSource.GIVEN, AddressSource.IDENTIFY, AddressSource.MDNS
NEVER = 3600.0
NOW = 1_000_000.0
ALL = 1000


def address(port: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")


class Remembering:
    """A book in a file, and what has failed."""

    def __init__(self, path: Path, interval: float = NEVER, **limits: int) -> None:
        self.now = NOW
        self.book = AddressBook(Config(**limits), clock=lambda: self.now)
        self.failures: list[StateError] = []
        self.told = asyncio.Event()
        self.thread = DatabaseThread(path)
        self.memory = AddressMemory(self.book, self.thread, failed=self._failed, interval=interval)

    async def __aenter__(self) -> Self:
        self.thread.open()
        await self.memory.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.memory.close()
        await self.thread.close()

    def _failed(self, error: StateError) -> None:
        self.failures.append(error)
        self.told.set()


def kept(path: Path) -> set[NamedAddress]:
    with Database(path) as database:
        return set(AddressTables(database).read(ALL, ALL))


async def test_what_is_known_is_known_at_the_next_start(path: Path) -> None:
    async with Remembering(path) as first:
        first.book.add(address(1), ALICE)
        first.book.tell(ALICE, IDENTIFY, [address(1), address(2)], by=Multiaddr.parse("/ip4/192.0.2.1/tcp/1"))
        first.book.tell(BOB, IDENTIFY, [address(3)], expires=NOW + 60)
        first.book.tell(CAROL, MDNS, [address(4)], expires=NOW + 60)
        first.book.succeeded(ALICE, address(2))
        first.book.failed(ALICE, address(1))
    async with Remembering(path) as second:
        assert set(second.book.named()) == {
            NamedAddress(ALICE, address(1), GIVEN),
            NamedAddress(ALICE, address(1), IDENTIFY, None, ("192.0.2.1/32",)),
            NamedAddress(ALICE, address(2), IDENTIFY, None, ("192.0.2.1/32",), NOW),
            NamedAddress(BOB, address(3), IDENTIFY, NOW + 60, ("identify",)),
        }
    assert not first.failures + second.failures


async def test_what_has_expired_is_gone(path: Path) -> None:
    async with Remembering(path) as first:
        first.book.tell(ALICE, IDENTIFY, [address(1)], expires=NOW + 60)
        first.book.tell(BOB, IDENTIFY, [address(2)], expires=NOW + 61)
    second = Remembering(path)
    second.now += 60
    async with second:
        assert list(second.book) == [BOB]
    assert {each.peer for each in kept(path)} == {BOB}


async def test_what_is_forgotten_is_gone(path: Path) -> None:
    async with Remembering(path) as first:
        for port in 1, 2:
            first.book.add(address(port), ALICE)
            first.book.tell(BOB, IDENTIFY, [address(port)])
    async with Remembering(path) as second:
        second.book.remove(address(1), ALICE)
        second.book.tell(BOB, IDENTIFY, [])
    assert kept(path) == {NamedAddress(ALICE, address(2), GIVEN)}


async def test_what_is_added_before_the_start_is_kept(path: Path) -> None:
    async with Remembering(path) as first:
        first.book.add(address(1), ALICE)
    second = Remembering(path)
    second.book.add(address(2), ALICE)
    async with second:
        assert second.book.get(ALICE) == (address(2), address(1))
    assert {each.address for each in kept(path)} == {address(1), address(2)}


async def test_changes_are_written_together_after_a_while(path: Path) -> None:
    async with Remembering(path, interval=0.001) as ours:
        ours.book.add(address(1), ALICE)
        ours.book.add(address(2), ALICE)
        assert kept(path) == set()
        await until(lambda: len(kept(path)) == 2)
        ours.book.remove(address(1), ALICE)
        await until(lambda: len(kept(path)) == 1)


async def test_nothing_is_written_when_nothing_has_changed(path: Path) -> None:
    async with Remembering(path) as first:
        first.book.tell(ALICE, IDENTIFY, [address(1)])
    async with Remembering(path) as second:
        second.book.tell(ALICE, IDENTIFY, [address(1)])  # as at every connection
        second.book.tell(BOB, MDNS, [address(1)])
        second.book.failed(ALICE, address(1))
        second.book.network_changed()
        assert not second.memory._pending
        assert second.memory._timer is None


async def test_what_remotes_change_is_written_bit_by_bit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_memory_module, "MAX_AT_ONCE", 10)
    async with Remembering(path, max_told_addresses=30) as ours:
        hostile = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
        ours.book.tell(ALICE, IDENTIFY, [address(1)], by=Multiaddr.parse("/ip4/192.0.2.2/tcp/1"))
        for number in range(100):
            ours.book.tell(peer(10 + number), IDENTIFY, [address(1)], by=hostile)
        assert ours.memory._pending == 30
        await ours.memory._write()
        assert ALICE in {each.peer for each in kept(path)}
        assert len(kept(path)) <= 10
    assert len(kept(path)) > 10


async def test_a_file_of_others_is_not_read_without_end(path: Path) -> None:
    async with Remembering(path) as first:
        for number in range(20):
            first.book.add(address(1), peer(number))
            first.book.tell(peer(number), IDENTIFY, [address(2)])
        first.book.succeeded(peer(3), address(1))
        first.book.succeeded(peer(3), address(2))
    async with Remembering(path, max_given_addresses=5, max_told_addresses=4) as second:
        assert len(list(second.book.named())) == 9
        assert len(second.book.entries(peer(3))) == 2
    assert len(kept(path)) == 9


async def test_peers_on_one_file_add_to_each_others_addresses(path: Path) -> None:
    async with Remembering(path) as one, Remembering(path) as other:
        one.book.add(address(1), ALICE)
        one.book.tell(BOB, IDENTIFY, [address(3)])
        one.book.succeeded(BOB, address(3))
        other.book.add(address(2), ALICE)
        await one.memory._write()
        await other.memory._write()
        other.now += 100
        other.book.tell(BOB, IDENTIFY, [address(3), address(4)])
        other.book.add(address(5), ALICE, expires=NOW + 500)
        other.book.remove(address(5), ALICE)
        one.book.add(address(1), CAROL)
    assert kept(path) == {
        NamedAddress(ALICE, address(1), GIVEN),
        NamedAddress(ALICE, address(2), GIVEN),
        NamedAddress(BOB, address(3), IDENTIFY, None, ("identify",), NOW),
        NamedAddress(BOB, address(4), IDENTIFY, None, ("identify",)),
        NamedAddress(CAROL, address(1), GIVEN),
    }


async def test_what_cannot_be_written_is_told_once_and_written_later(path: Path) -> None:
    aside = path.with_name("aside")
    async with Remembering(path, interval=0.0) as ours:
        os.rename(path, aside)
        ours.book.add(address(1), ALICE)
        ours.book.tell(BOB, IDENTIFY, [address(2)])
        await ours.told.wait()
        for _ in range(3):
            await settled()
        os.rename(aside, path)
    assert [error.reason for error in ours.failures] == ["No such file or directory"]
    assert {each.peer for each in kept(path)} == {ALICE, BOB}


async def test_it_closes_though_it_cannot_write(path: Path) -> None:
    async with Remembering(path) as ours:
        ours.book.add(address(1), ALICE)
        os.unlink(path)
    assert [error.reason for error in ours.failures] == ["No such file or directory"]


async def test_the_loop_goes_on_while_the_file_is_locked(path: Path, locked: sqlite3.Connection) -> None:
    async with Remembering(path) as ours:
        ours.book.add(address(1), ALICE)
        written = ours.memory._write()
        done, _ = await asyncio.wait([written], timeout=0.05)
        assert not done
        ours.book.add(address(2), ALICE)  # while it waits
        locked.execute("ROLLBACK")
    assert {each.address for each in kept(path)} == {address(1), address(2)}


async def test_a_start_that_fails_leaves_the_book_alone(tmp_path: Path) -> None:
    ours = Remembering(tmp_path / "folder" / "state.db")
    with pytest.raises(ClosedError):
        await ours.memory.start()
    ours.thread.open()
    with pytest.raises(StateError, match="No such file"):
        await ours.memory.start()
    await ours.memory.close()
    await ours.thread.close()
    ours.book.add(address(1), ALICE)
    assert not ours.failures


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("(x'00', x'04', 'given', NULL, '[]', NULL)", "invalid address"),
        ("('text', x'04', 'given', NULL, '[]', NULL)", "invalid address"),
        ("({peer}, {address}, 'hearsay', NULL, '[]', NULL)", "invalid address"),
        ("({peer}, {address}, 'given', 'soon', '[]', NULL)", "invalid address"),
        ("({peer}, {address}, 'given', NULL, '[1]', NULL)", "invalid address"),
        ("({peer}, {address}, 'given', NULL, '[', NULL)", "invalid address"),
    ],
)
async def test_rows_that_are_damaged(path: Path, row: str, reason: str) -> None:
    Database(path).close()
    known = f"x'{bytes(address(1)).hex()}'"
    insert(path, row.format(peer=f"x'{ALICE.to_bytes().hex()}'", address=known))
    ours = Remembering(path)
    ours.thread.open()
    with pytest.raises(StateError, match=reason):
        await ours.memory.start()
    await ours.thread.close()


async def test_addresses_of_a_later_program_stay_in_the_file(path: Path) -> None:
    Database(path).close()
    insert(path, f"(x'{ALICE.to_bytes().hex()}', x'ffff03', 'given', NULL, '[]', NULL)")
    async with Remembering(path) as ours:
        assert list(ours.book) == []
        ours.book.add(address(1), ALICE)
    with Database(path) as database, database.read() as connection:
        assert connection.execute("SELECT count(*) FROM addresses").fetchone() == (2,)


def insert(path: Path, row: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"INSERT INTO addresses VALUES {row}")
    connection.close()


async def test_an_older_program_goes_on_with_its_rules_and_bans(path: Path) -> None:
    with Database(path, migrations=MIGRATIONS[:1]) as older, opened(path) as tables:
        async with Remembering(path) as ours:
            ours.book.add(address(1), ALICE)
        tables.set_banned(BOB, True)
        with older.write() as connection:
            connection.execute("INSERT INTO bans VALUES (?)", (CAROL.to_bytes(),))
        assert tables.read().banned == {BOB, CAROL}
    assert len(kept(path)) == 1
