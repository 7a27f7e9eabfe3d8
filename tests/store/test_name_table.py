"""Petnames in a state file, and two that use it at once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.waiting import begun, until

from stronghold_p2p import PeerId, StrongholdP2p
from stronghold_p2p.errors import StateError
from stronghold_p2p.firewall.names import Names
from stronghold_p2p.store.changes import Change, NameChange
from stronghold_p2p.store.database import Database
from stronghold_p2p.store.database_thread import DatabaseThread
from stronghold_p2p.store.firewall_memory import FirewallMemory
from stronghold_p2p.store.name_table import NameTable

from .conftest import ALICE, BOB, CAROL, peer

NEVER = 3600.0
"""Seconds between two checks, where a test makes them itself."""


def kept(path: Path) -> dict[PeerId, str]:
    with Database(path) as database:
        return NameTable(database).read()


def test_a_peer_has_one_name_and_a_name_one_peer(path: Path) -> None:
    with Database(path) as database:
        table = NameTable(database)
        assert table.set(ALICE, "alice") == table.set(BOB, "bob") == table.set(ALICE, "al") == []
        assert table.read() == {ALICE: "al", BOB: "bob"}
        assert table.set(CAROL, "Bob") == [BOB]
        assert table.read() == {ALICE: "al", CAROL: "Bob"}
        assert table.set(ALICE, None) == table.set(ALICE, None) == []
    assert kept(path) == {CAROL: "Bob"}


def test_a_damaged_name(path: Path) -> None:
    Database(path).close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO names VALUES (?, ?)", (ALICE.to_bytes(), b"\xff"))
    connection.close()
    with pytest.raises(StateError, match="contains an invalid name"):
        kept(path)


class Process:
    """What one process makes of a file: its memory, and the names that it knows."""

    def __init__(self, path: Path) -> None:
        self.names = Names()
        self.failures: list[StateError] = []
        self.memory = FirewallMemory(
            DatabaseThread(path), apply=self._apply, failed=self.failures.append, interval=NEVER
        )

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            assert isinstance(change, NameChange)
            self.names.set_petname(change.peer, change.name)

    def set(self, peer: PeerId, name: str | None) -> None:
        self.names.set_petname(peer, name)
        self.memory.keep_name(peer, name)


async def test_names_given_before_the_start_are_written_then(path: Path) -> None:
    with Database(path) as database:
        NameTable(database).set(ALICE, "alice")
        NameTable(database).set(BOB, "bob")
    process = Process(path)
    process.set(CAROL, "alice")
    process.set(BOB, None)
    await process.memory.start()
    assert process.names.petnames == kept(path) == {CAROL: "alice"}
    await process.memory.close()


async def test_a_name_that_another_process_has_just_given(path: Path) -> None:
    one, other = Process(path), Process(path)
    await one.memory.start()
    await other.memory.start()
    one.set(ALICE, "alice")
    await one.memory.check()
    read = await begun(other.memory.check())  # which finds the name of ALICE, before ours is written
    other.set(BOB, "alice")
    await read
    await other.memory.check()
    await one.memory.check()
    assert one.names.petnames == other.names.petnames == kept(path) == {BOB: "alice"}
    await one.memory.close()
    await other.memory.close()


@settings(max_examples=examples(60))
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.one_of(st.none(), st.tuples(st.integers(0, 2), st.sampled_from(["a", "A", "b", None]))),
        ),
        max_size=30,
    )
)
def test_two_processes_agree_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, tuple[int, str | None] | None]]
) -> None:
    """Whatever both give, without waiting for each other."""
    path = tmp_path_factory.mktemp("state") / "state.db"

    async def run() -> None:
        both = Process(path), Process(path)
        for process in both:
            await process.memory.start()
        checks = []
        for which, what in steps:
            if what is None:
                checks.append(await begun(both[which].memory.check()))
            else:
                both[which].set(peer(what[0]), what[1])
        await asyncio.gather(*checks)
        for process in (*both, *both):  # the first may read before the second has written
            await process.memory.check()
        for process in both:
            await process.memory.close()
            assert not process.failures
            assert process.names.petnames == kept(path)

    asyncio.run(run())


async def test_a_peer_keeps_its_names(path: Path) -> None:
    async with StrongholdP2p(state=path) as one:
        one.set_name(ALICE, "alice")
        one.set_name(BOB, "bob")
        one.set_name(BOB, None)
    async with StrongholdP2p(state=path) as again:
        assert (again.name_of(ALICE), again.name_of(BOB)) == ("alice", None)


async def test_a_peer_hears_of_a_name_that_was_given_elsewhere(path: Path) -> None:
    async with StrongholdP2p(state=path) as one:
        with Database(path) as database:
            NameTable(database).set(ALICE, "alice")
        await until(lambda: one.name_of(ALICE) == "alice")
