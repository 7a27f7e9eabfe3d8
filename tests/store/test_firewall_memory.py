from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.state import opened
from support.waiting import begun

from stronghold_p2p.errors import ClosedError, StateError
from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.identity import PeerId
from stronghold_p2p.store.changes import BanChange, Change, NameChange, RuleChange
from stronghold_p2p.store.database import Database
from stronghold_p2p.store.database_thread import DatabaseThread
from stronghold_p2p.store.firewall_memory import FirewallMemory
from stronghold_p2p.store.firewall_tables import Remembered
from stronghold_p2p.store.name_table import NameTable

from .conftest import ALICE, BOB, CAROL, PING, peer

INBOUND, OUTBOUND, BOTH = Direction.INBOUND, Direction.OUTBOUND, Direction.BOTH
NEVER = 3600.0
"""Seconds between two checks, where a test makes them itself."""


class Remembering:
    """A memory, and what it has told."""

    def __init__(self, path: Path, interval: float = NEVER) -> None:
        self.changes: list[Change] = []
        self.failures: list[StateError] = []
        self.told = asyncio.Event()
        self.memory = FirewallMemory(DatabaseThread(path), apply=self._apply, failed=self._failed, interval=interval)

    async def __aenter__(self) -> Self:
        await self.memory.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.memory.close()

    def _apply(self, changes: Sequence[Change]) -> None:
        assert changes
        self.changes += changes
        self.told.set()

    def _failed(self, error: StateError) -> None:
        self.failures.append(error)
        self.told.set()

    def keep_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> asyncio.Future[None]:
        return written(self.memory.keep_rule(peer, direction, rule))

    def keep_ban(self, peer: PeerId, banned: bool) -> asyncio.Future[None]:
        return written(self.memory.keep_ban(peer, banned))

    async def next_told(self) -> None:
        await self.told.wait()
        self.told.clear()

    async def noticed(self) -> list[Change]:
        """What the others have changed since the last time."""
        self.changes.clear()
        await self.memory.check()
        return self.changes


def written(future: asyncio.Future[None] | None) -> asyncio.Future[None]:
    assert future is not None
    return future


def kept(path: Path) -> Remembered:
    with opened(path) as file:
        return file.read()


async def test_what_is_kept_is_applied_at_the_next_start(path: Path) -> None:
    async with Remembering(path) as first:
        first.memory.keep_rule(ALICE, BOTH, Rule.ASK)
        first.memory.keep_rule(BOB, OUTBOUND, PING)
        first.memory.keep_rule(ALICE, OUTBOUND, None)
        first.memory.keep_ban(BOB, True)
        first.memory.keep_ban(CAROL, True)
        first.memory.keep_ban(BOB, False)
    async with Remembering(path) as second:
        assert set(second.changes) == {
            RuleChange(ALICE, INBOUND, None, Rule.ASK),
            RuleChange(BOB, OUTBOUND, None, PING),
            BanChange(CAROL, True),
        }
    assert not first.changes
    assert not first.failures + second.failures


async def test_what_is_acknowledged_is_in_the_file(path: Path) -> None:
    async with Remembering(path) as ours:
        await ours.keep_rule(ALICE, INBOUND, PING)
        assert kept(path).rules == {(ALICE, INBOUND): PING}
        await ours.keep_ban(ALICE, True)
        assert kept(path).banned == {ALICE}


async def test_changes_of_others_are_noticed_and_our_own_are_not(path: Path) -> None:
    async with Remembering(path) as ours:
        await ours.keep_rule(ALICE, BOTH, Rule.ASK)
        await ours.keep_ban(CAROL, True)
        assert await ours.noticed() == []
        with opened(path) as theirs:
            theirs.set_rule(ALICE, INBOUND, PING)
            theirs.set_rule(BOB, OUTBOUND, Rule.REJECT_ALL)
            theirs.set_banned(BOB, True)
            assert set(await ours.noticed()) == {
                RuleChange(ALICE, INBOUND, Rule.ASK, PING),
                RuleChange(BOB, OUTBOUND, None, Rule.REJECT_ALL),
                BanChange(BOB, True),
            }
            assert await ours.noticed() == []
            theirs.set_rule(ALICE, BOTH, None)
            theirs.set_banned(CAROL, False)
            theirs.set_banned(BOB, False)
            theirs.set_banned(BOB, True)
            assert set(await ours.noticed()) == {
                RuleChange(ALICE, INBOUND, PING, None),
                RuleChange(ALICE, OUTBOUND, Rule.ASK, None),
                BanChange(CAROL, False),
            }


async def test_a_peer_loses_its_name_before_another_one_gets_it(path: Path) -> None:
    async with Remembering(path) as ours:
        for old, new in [(ALICE, BOB), (BOB, ALICE)]:
            await written(ours.memory.keep_name(old, "alice"))
            with Database(path) as database:
                NameTable(database).set(new, "alice")
            assert await ours.noticed() == [NameChange(old, None), NameChange(new, "alice")]


async def test_our_newer_word_is_not_undone_by_an_older_one_of_others(path: Path) -> None:
    async with Remembering(path) as ours:
        with opened(path) as theirs:
            theirs.set_rule(ALICE, BOTH, Rule.REJECT_ALL)
            theirs.set_banned(ALICE, True)
            theirs.set_banned(BOB, True)
        check = await begun(ours.memory.check())  # the thread may have read by now, but we have not heard of it
        ours.keep_rule(ALICE, INBOUND, Rule.ASK)
        last = ours.keep_rule(ALICE, INBOUND, Rule.ALLOW_ALL)
        ours.keep_ban(BOB, False)
        await check
        await last
        assert set(ours.changes) == {
            RuleChange(ALICE, OUTBOUND, None, Rule.REJECT_ALL),
            BanChange(ALICE, True),
        }
        assert await ours.noticed() == []
    assert kept(path) == Remembered(
        {(ALICE, INBOUND): Rule.ALLOW_ALL, (ALICE, OUTBOUND): Rule.REJECT_ALL}, frozenset({ALICE})
    )


@settings(max_examples=examples(60))
@given(st.lists(st.tuples(st.sampled_from(["ours", "theirs", "check"]), st.integers(0, 11)), max_size=30))
def test_the_firewall_and_the_file_agree_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever both sides write, without waiting for each other."""
    path = tmp_path_factory.mktemp("state") / "state.db"
    rules = [Rule.ALLOW_ALL, Rule.ASK, None]

    async def run() -> None:
        failures: list[StateError] = []
        in_force: dict[tuple[PeerId, Direction], Rule | None] = {}

        def apply(changes: Sequence[Change]) -> None:
            for change in changes:
                assert isinstance(change, RuleChange)
                in_force[change.peer, change.direction] = change.rule

        memory = FirewallMemory(DatabaseThread(path), apply=apply, failed=failures.append, interval=NEVER)
        await memory.start()
        checks = []
        with opened(path) as theirs:
            for who, what in steps:
                number, side, rule = peer(what // 6), (INBOUND, OUTBOUND)[what // 3 % 2], rules[what % 3]
                if who == "ours":
                    in_force[number, side] = rule
                    memory.keep_rule(number, side, rule)
                elif who == "theirs":
                    theirs.set_rule(number, side, rule)
                else:
                    checks.append(await begun(memory.check()))
        await asyncio.gather(*checks, memory.check())
        await memory.close()
        assert not failures
        assert {key: rule for key, rule in in_force.items() if rule is not None} == kept(path).rules

    asyncio.run(run())


NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


async def test_what_has_ended_leaves_the_file(path: Path) -> None:
    lent = Rule.ASK.lend("Sign", NOON)
    async with Remembering(path) as ours:
        await ours.keep_rule(ALICE, BOTH, PING.replace(until=NOON))
        await ours.keep_rule(BOB, INBOUND, lent)
        ours.memory.drop_ended({(ALICE, INBOUND): NOON.timestamp(), (BOB, INBOUND): NOON.timestamp()})
        assert await ours.noticed() == []
        assert kept(path).rules == {(ALICE, OUTBOUND): PING.replace(until=NOON), (BOB, INBOUND): Rule.ASK}
        with opened(path) as theirs:
            theirs.set_rule(BOB, INBOUND, None)
        assert await ours.noticed() == [RuleChange(BOB, INBOUND, Rule.ASK, None)]
    assert not ours.failures


async def test_what_others_have_set_since_does_not_leave_with_it(path: Path) -> None:
    async with Remembering(path) as ours, Remembering(path) as other:
        await ours.keep_rule(ALICE, BOTH, PING.replace(until=NOON))
        assert len(await other.noticed()) == 2
        await other.keep_rule(ALICE, INBOUND, PING)
        await other.keep_rule(ALICE, OUTBOUND, None)
        for each in (ours, other):
            each.memory.drop_ended(dict.fromkeys(((ALICE, INBOUND), (ALICE, OUTBOUND)), NOON.timestamp()))
        assert kept(path).rules == {(ALICE, INBOUND): PING}
        assert await ours.noticed() == [RuleChange(ALICE, INBOUND, None, PING)]
        assert await other.noticed() == []


async def test_two_that_see_an_end_agree(path: Path) -> None:
    """Whoever is first."""
    async with Remembering(path) as ours, Remembering(path) as other:
        await ours.keep_rule(ALICE, INBOUND, Rule.ASK.lend("Sign", NOON))
        await other.memory.check()
        ended = {(ALICE, INBOUND): NOON.timestamp()}
        ours.memory.drop_ended(ended)
        await ours.memory.check()
        assert await other.noticed() == [RuleChange(ALICE, INBOUND, Rule.ASK.lend("Sign", NOON), Rule.ASK)]
        other.memory.drop_ended(ended)
        assert await other.noticed() == await ours.noticed() == []
    assert kept(path).rules == {(ALICE, INBOUND): Rule.ASK}


async def test_an_end_that_cannot_be_written_is_told(path: Path) -> None:
    async with Remembering(path) as ours:
        await ours.keep_rule(ALICE, INBOUND, PING.replace(until=NOON))
        os.unlink(path)
        ours.memory.drop_ended({(ALICE, INBOUND): NOON.timestamp()})
        await ours.next_told()
    assert [error.reason for error in ours.failures] == ["No such file or directory"]
    ours.memory.drop_ended({(ALICE, INBOUND): NOON.timestamp()})  # it is closed: the next start sees to it


async def test_it_looks_by_itself(path: Path) -> None:
    async with Remembering(path, interval=0.001) as ours:
        with opened(path) as theirs:
            theirs.set_banned(ALICE, True)
        await ours.next_told()
        assert ours.changes == [BanChange(ALICE, True)]


async def test_what_stays_broken_is_told_once_until_it_is_mended(path: Path) -> None:
    aside = path.with_name("aside")
    async with Remembering(path, interval=0.0) as ours:
        for failures in (1, 2):
            os.rename(path, aside)
            await ours.next_told()
            for _ in range(5):
                with pytest.raises(StateError, match="No such file"):
                    await ours.memory.check()
            assert len(ours.failures) == failures
            os.rename(aside, path)
            with opened(path) as theirs:
                theirs.set_banned(peer(failures), True)
            await ours.next_told()
            assert ours.changes.pop() == BanChange(peer(failures), True)


async def test_what_cannot_be_kept_is_told_to_both(path: Path) -> None:
    async with Remembering(path) as ours:
        with pytest.raises(StateError, match="predicate"):
            await ours.keep_rule(ALICE, INBOUND, Rule.restricted(lambda *_: True))
        os.unlink(path)
        ours.keep_ban(ALICE, True)  # nobody waits for this one
        ours.keep_ban(BOB, True).cancel()
    assert [error.reason for error in ours.failures] == [
        "a rule with a predicate cannot be stored",
        "No such file or directory",
        "No such file or directory",
    ]


async def test_cancelling_a_wait_does_not_undo_the_call(path: Path) -> None:
    async with Remembering(path) as ours:
        ours.keep_ban(ALICE, True).cancel()
    assert kept(path).banned == {ALICE}


async def test_the_loop_goes_on_while_the_file_is_locked(path: Path, locked: sqlite3.Connection) -> None:
    async with Remembering(path) as ours:
        committed = ours.keep_ban(ALICE, True)
        done, _ = await asyncio.wait([committed], timeout=0.05)
        assert not done
        locked.execute("ROLLBACK")
        await committed
    assert kept(path).banned == {ALICE}


async def test_what_is_to_be_kept_before_the_start_goes_before_what_was_kept(path: Path) -> None:
    with opened(path) as theirs:
        theirs.set_rule(ALICE, BOTH, Rule.ALLOW_ALL)
        theirs.set_rule(BOB, INBOUND, Rule.ALLOW_ALL)
        theirs.set_banned(ALICE, True)
        theirs.set_banned(BOB, True)
    ours = Remembering(path)
    assert ours.memory.keep_rule(ALICE, BOTH, PING) is None
    assert ours.memory.keep_rule(ALICE, INBOUND, None) is None
    assert ours.memory.keep_ban(ALICE, False) is None
    assert ours.memory.keep_ban(CAROL, True) is None
    async with ours:
        pass
    held = Remembered({(ALICE, OUTBOUND): PING, (BOB, INBOUND): Rule.ALLOW_ALL}, frozenset({BOB, CAROL}))
    assert kept(path) == held
    assert set(ours.changes) == {
        RuleChange(BOB, INBOUND, None, Rule.ALLOW_ALL),
        BanChange(BOB, True),
    }
    assert not ours.failures


async def test_a_start_that_fails_forgets_nothing(path: Path) -> None:
    folder = path.with_name("folder")
    ours = Remembering(folder / path.name)
    ours.memory.keep_ban(ALICE, True)
    with pytest.raises(StateError, match="No such file"):
        await ours.memory.start()
    os.mkdir(folder)
    async with ours:
        assert kept(folder / path.name).banned == {ALICE}


async def test_it_can_be_closed_and_started_again(path: Path) -> None:
    ours = Remembering(path)
    await ours.memory.close()
    ours.memory.keep_ban(ALICE, True)
    async with ours:
        ours.memory.keep_ban(ALICE, False)
    await ours.memory.close()
    with pytest.raises(ClosedError):
        await ours.memory.check()
    assert not kept(path).banned
    with opened(path) as theirs:
        theirs.set_banned(BOB, True)
    async with ours:
        assert ours.changes == [BanChange(BOB, True)]
    assert kept(path).banned == {BOB}
    assert not ours.memory._pending


async def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    ours = Remembering(tmp_path / "folder" / "state.db")
    with pytest.raises(StateError):
        await ours.memory.start()
    assert not ours.failures
    await no_thread_is_left()


async def test_a_start_or_a_close_that_is_cancelled_leaves_nothing(path: Path) -> None:
    await cancelled(Remembering(path).memory.start())
    last = Remembering(path).memory
    await last.start()
    last.keep_ban(ALICE, True)
    await cancelled(last.close())
    assert os.listdir(path.parent) == [path.name]  # SQLite's own are gone: everybody has closed it
    assert kept(path).banned == {ALICE}


async def cancelled(call: Coroutine[Any, Any, None]) -> None:
    running = await begun(call)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await no_thread_is_left()


async def no_thread_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("stronghold-p2p-state"):
            await asyncio.to_thread(thread.join, 30)
            assert not thread.is_alive()


# -- several at once, and crashes ---------------------------------------------------------------------


PROLOGUE = """
import asyncio, sys
from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.identity import PeerId
from stronghold_p2p.store.database import Database
from stronghold_p2p.store.database_thread import DatabaseThread
from stronghold_p2p.store.firewall_memory import FirewallMemory
from stronghold_p2p.store.firewall_tables import FirewallTables

def peer(number):
    return PeerId(bytes.fromhex("002408011220") + number.to_bytes(32, "big"))
"""

WITH_FILE = """
with Database(sys.argv[1]) as database:
    file = FirewallTables(database)
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        file.set_rule(peer(number), Direction.BOTH, Rule.ALLOW_ALL)
        file.set_banned(peer(number), True)
        print(number, flush=True)
"""

WITH_MEMORY = """
async def main():
    memory = FirewallMemory(DatabaseThread(sys.argv[1]), apply=lambda changes: None, failed=print)
    await memory.start()
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        memory.keep_rule(peer(number), Direction.BOTH, Rule.ALLOW_ALL)
        await memory.keep_ban(peer(number), True)
        print(number, flush=True)
    await memory.close()

asyncio.run(main())
"""


def writer(code: str, path: Path, *numbers: int) -> subprocess.Popen[str]:
    """A process that keeps a rule and a ban for the peers of a range of numbers, and prints each number after that."""
    arguments = [sys.executable, "-c", PROLOGUE + code, str(path), *map(str, numbers)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("code", [WITH_FILE, WITH_MEMORY], ids=["file", "memory"])
@pytest.mark.parametrize("acknowledged", [1, 40])
def test_a_crash_loses_nothing_that_was_acknowledged(path: Path, code: str, acknowledged: int) -> None:
    with writer(code, path, 0, 1_000_000) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledged)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    numbers = [int(line) for line in lines if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    assert len(numbers) >= acknowledged
    with opened(path) as file:
        rules, banned = file.read()
        file.set_banned(peer(1_000_000), True)  # nobody's lock is left
    assert banned >= set(map(peer, numbers))
    assert rules.keys() >= {(peer(number), side) for number in numbers for side in BOTH}


def test_two_processes_write_at_once(path: Path) -> None:
    with writer(WITH_FILE, path, 0, 50) as one, writer(WITH_MEMORY, path, 50, 100) as other:
        for process in (one, other):
            process.communicate()
    assert (one.returncode, other.returncode) == (0, 0)
    with opened(path) as file:
        assert file.read().banned == set(map(peer, range(100)))
