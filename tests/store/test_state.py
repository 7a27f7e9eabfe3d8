from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import begun

from stronghold_p2p.errors import ClosedError, StateError
from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.identity import PeerId
from stronghold_p2p.store import state
from stronghold_p2p.store.state import BanChange, Change, FirewallMemory, Remembered, RuleChange, StateFile

INBOUND, OUTBOUND, BOTH = Direction.INBOUND, Direction.OUTBOUND, Direction.BOTH
PING = Rule.restricted(allow={"Ping"})
NEVER = 3600.0
"""Seconds between two checks, where a test makes them itself."""


def peer(number: int) -> PeerId:
    return PeerId(bytes.fromhex("002408011220") + number.to_bytes(32, "big"))


ALICE, BOB, CAROL = map(peer, range(3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


# -- the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK, PING, Rule.restricted(allow={"é\n", ""})])
def test_what_was_kept_is_read_after_a_restart(path: Path, rule: Rule) -> None:
    with StateFile(path) as file:
        file.set_rule(ALICE, INBOUND, rule)
        file.set_rule(BOB, BOTH, rule)
        file.ban(CAROL)
    with StateFile(path) as file:
        rules, banned = file.read()
    assert rules == {(ALICE, INBOUND): rule, (BOB, INBOUND): rule, (BOB, OUTBOUND): rule}
    assert banned == {CAROL}
    if rule.allow is None:
        assert rules[ALICE, INBOUND] is rule  # the gate compares by identity


def test_rules_and_bans_are_replaced_and_removed(path: Path) -> None:
    with StateFile(path) as file:
        for number in (ALICE, BOB):
            file.set_rule(number, BOTH, Rule.ASK)
            file.ban(number)
            file.ban(number)
        file.set_rule(ALICE, INBOUND, None)
        file.set_rule(BOB, OUTBOUND, PING)
        file.set_rule(CAROL, BOTH, None)
        file.unban(BOB)
        file.unban(CAROL)
        assert file.read() == Remembered(
            {(ALICE, OUTBOUND): Rule.ASK, (BOB, INBOUND): Rule.ASK, (BOB, OUTBOUND): PING}, frozenset({ALICE})
        )


def test_a_rule_by_a_function_cannot_be_kept(path: Path) -> None:
    with StateFile(path) as file:
        file.set_rule(ALICE, BOTH, Rule.ASK)
        with pytest.raises(StateError, match="a function cannot be kept"):
            file.set_rule(ALICE, BOTH, Rule.restricted(lambda *_: True))
        assert file.read().rules == {(ALICE, INBOUND): Rule.ASK, (ALICE, OUTBOUND): Rule.ASK}


def test_only_its_owner_can_read_it(path: Path) -> None:
    with StateFile(path) as file:
        file.ban(ALICE)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["state.db", "state.db-wal", "state.db-shm"], 0o600)


def test_a_commit_survives_the_loss_of_power(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That cannot be tried here; these are the settings that SQLite documents for it."""
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def recorded(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connections.append(connect(*arguments, **options))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", recorded)
    for _ in "made", "opened":
        with StateFile(path):
            pragmas = {
                name: connections[-1].execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "fullfsync")
            }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}


def test_the_version_tells_of_the_changes_of_others(path: Path) -> None:
    with StateFile(path) as ours, StateFile(path) as theirs:
        versions = [ours.version]
        for file in (ours, theirs, theirs, ours):
            file.ban(ALICE)
            file.unban(ALICE)
            versions.append(ours.version)
    assert versions[0] == versions[1]
    assert len(set(versions[1:4])) == 3
    assert versions[3] == versions[4]


def test_a_name_that_a_uri_would_mistake(tmp_path: Path) -> None:
    for name in ("what?mode=memory", "100%41", "a#b", ":memory:"):
        with StateFile(tmp_path / name) as file:
            file.ban(ALICE)
        with StateFile(tmp_path / name, create=False) as file:
            assert file.read().banned == {ALICE}


# -- several at once, and crashes ---------------------------------------------------------------------


def test_many_make_the_same_file_at_once(path: Path) -> None:
    barrier = threading.Barrier(8)

    def make(number: int) -> None:
        barrier.wait()
        with StateFile(path) as file:
            file.ban(peer(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(8)))
    with StateFile(path) as file:
        assert file.read().banned == set(map(peer, range(8)))


PROLOGUE = """
import asyncio, sys
from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.identity import PeerId
from stronghold_p2p.store.state import FirewallMemory, StateFile

def peer(number):
    return PeerId(bytes.fromhex("002408011220") + number.to_bytes(32, "big"))
"""

WITH_FILE = """
with StateFile(sys.argv[1]) as file:
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        file.set_rule(peer(number), Direction.BOTH, Rule.ALLOW_ALL)
        file.ban(peer(number))
        print(number, flush=True)
"""

WITH_MEMORY = """
async def main():
    memory = FirewallMemory(sys.argv[1], apply=lambda changes: None, failed=print)
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
    with StateFile(path) as file:
        rules, banned = file.read()
        file.ban(peer(1_000_000))  # nobody's lock is left
    assert banned >= set(map(peer, numbers))
    assert rules.keys() >= {(peer(number), side) for number in numbers for side in BOTH}


def test_two_processes_write_at_once(path: Path) -> None:
    with writer(WITH_FILE, path, 0, 50) as one, writer(WITH_MEMORY, path, 50, 100) as other:
        for process in (one, other):
            process.communicate()
    assert (one.returncode, other.returncode) == (0, 0)
    with StateFile(path) as file:
        assert file.read().banned == set(map(peer, range(100)))


@pytest.fixture
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """A state file in which somebody else is at work."""
    StateFile(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_whoever_holds_the_file_for_too_long(
    path: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "BUSY_TIMEOUT", 0.0)
    with StateFile(path) as file:
        with pytest.raises(StateError, match="locked"):
            file.ban(ALICE)
        assert not file.read().banned
        locked.execute("ROLLBACK")
        file.ban(ALICE)


# -- what is no state file ----------------------------------------------------------------------------


def other_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rules (peer, direction, rule)")
        connection.execute("PRAGMA user_version = 1")
    connection.close()


def newer_version(path: Path) -> None:
    StateFile(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {state.VERSION + 1}")
    connection.close()


def cut_off(path: Path) -> None:
    StateFile(path).close()
    os.truncate(path, 4096)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("rules = []\n" * 100), "not a database"),
        (Path.touch, "not a state file"),
        (other_program, "not a state file"),
        (newer_version, "has version 2; this program knows version 1"),
        (cut_off, "malformed"),
        (Path.mkdir, "unable to open"),
    ],
)
def test_what_is_no_state_file_is_refused_and_left_as_it_is(path: Path, make: Any, reason: str) -> None:
    make(path)
    before = path.is_file() and path.read_bytes()
    with pytest.raises(StateError, match=reason) as raised, StateFile(path) as file:
        file.read()
    assert raised.value.path == str(path)
    assert (path.is_file() and path.read_bytes()) == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="No such file"):
        StateFile(tmp_path / "folder" / "state.db")


def test_a_file_that_should_be_there_is_not_made(path: Path) -> None:
    with pytest.raises(StateError, match="No such file"):
        StateFile(path, create=False)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
@pytest.mark.parametrize("mode", [0o400, 0o000])
def test_a_file_that_must_not_be_written(path: Path, mode: int) -> None:
    StateFile(path).close()
    path.chmod(mode)
    with pytest.raises(StateError, match="is not writable"):
        StateFile(path)


@pytest.mark.parametrize("use", [StateFile.read, lambda file: file.version, lambda file: file.ban(ALICE)])
def test_a_file_that_is_removed_or_replaced_while_in_use(path: Path, use: Any) -> None:
    with StateFile(path) as file:
        path.unlink()
        with pytest.raises(StateError, match="No such file"):
            use(file)
        path.touch()
        with pytest.raises(StateError, match="was replaced"):
            use(file)


@pytest.mark.parametrize(
    "row",
    [
        (ALICE.to_bytes(), "inbound", "allow"),
        (ALICE.to_bytes(), "inbound", '"maybe"'),
        (ALICE.to_bytes(), "inbound", "[1]"),
        (ALICE.to_bytes(), "inbound", b'"allow"'),
        (ALICE.to_bytes(), "sideways", '"allow"'),
        (ALICE.to_bytes()[1:], "inbound", '"allow"'),
        (str(ALICE), "inbound", '"allow"'),
        (5, "inbound", '"allow"'),
    ],
)
def test_rows_that_are_no_rules(path: Path, row: tuple[Any, ...]) -> None:
    with StateFile(path) as file:
        with sqlite3.connect(path) as connection:
            connection.execute("INSERT INTO rules VALUES (?, ?, ?)", row)
        connection.close()
        with pytest.raises(StateError, match="neither a rule nor a ban"):
            file.read()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "state.db"
    with StateFile(path) as file:
        for number in range(40):
            file.set_rule(peer(number), BOTH, PING)
            file.ban(peer(number))
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(100))
def test_damage_is_a_state_error_and_nothing_else(path: Path, sound: bytes, seed: int) -> None:
    numbers = random.Random(seed)
    damaged = bytearray(sound)
    for _ in range(numbers.choice([1, 4, 64])):
        damaged[numbers.randrange(len(damaged) if seed % 2 else 200)] = numbers.randrange(256)
    path.write_bytes(damaged[: numbers.choice([None, None, numbers.randrange(len(damaged))])])
    with contextlib.suppress(StateError), StateFile(path) as file:
        file.read()
        file.set_rule(ALICE, BOTH, Rule.ASK)


# -- the memory of a running firewall -----------------------------------------------------------------


class Remembering:
    """A memory, and what it has told."""

    def __init__(self, path: Path, interval: float = NEVER) -> None:
        self.changes: list[Change] = []
        self.failures: list[StateError] = []
        self.told = asyncio.Event()
        self.memory = FirewallMemory(path, apply=self._apply, failed=self._failed, interval=interval)

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

    async def next_told(self) -> None:
        await self.told.wait()
        self.told.clear()

    async def noticed(self) -> list[Change]:
        """What the others have changed since the last time."""
        self.changes.clear()
        await self.memory.check()
        return self.changes


def kept(path: Path) -> Remembered:
    with StateFile(path) as file:
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
        await ours.memory.keep_rule(ALICE, INBOUND, PING)
        assert kept(path).rules == {(ALICE, INBOUND): PING}
        await ours.memory.keep_ban(ALICE, True)
        assert kept(path).banned == {ALICE}


async def test_changes_of_others_are_noticed_and_our_own_are_not(path: Path) -> None:
    async with Remembering(path) as ours:
        await ours.memory.keep_rule(ALICE, BOTH, Rule.ASK)
        await ours.memory.keep_ban(CAROL, True)
        assert await ours.noticed() == []
        with StateFile(path) as theirs:
            theirs.set_rule(ALICE, INBOUND, PING)
            theirs.set_rule(BOB, OUTBOUND, Rule.REJECT_ALL)
            theirs.ban(BOB)
            assert set(await ours.noticed()) == {
                RuleChange(ALICE, INBOUND, Rule.ASK, PING),
                RuleChange(BOB, OUTBOUND, None, Rule.REJECT_ALL),
                BanChange(BOB, True),
            }
            assert await ours.noticed() == []
            theirs.set_rule(ALICE, BOTH, None)
            theirs.unban(CAROL)
            theirs.unban(BOB)
            theirs.ban(BOB)
            assert set(await ours.noticed()) == {
                RuleChange(ALICE, INBOUND, PING, None),
                RuleChange(ALICE, OUTBOUND, Rule.ASK, None),
                BanChange(CAROL, False),
            }


async def test_our_newer_word_is_not_undone_by_an_older_one_of_others(path: Path) -> None:
    async with Remembering(path) as ours:
        with StateFile(path) as theirs:
            theirs.set_rule(ALICE, BOTH, Rule.REJECT_ALL)
            theirs.ban(ALICE)
            theirs.ban(BOB)
        check = await begun(ours.memory.check())  # the thread may have read by now, but we have not heard of it
        ours.memory.keep_rule(ALICE, INBOUND, Rule.ASK)
        last = ours.memory.keep_rule(ALICE, INBOUND, Rule.ALLOW_ALL)
        ours.memory.keep_ban(BOB, False)
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


@settings(max_examples=60, deadline=None)
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

        memory = FirewallMemory(path, apply=apply, failed=failures.append, interval=NEVER)
        await memory.start()
        checks = []
        with StateFile(path) as theirs:
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


async def test_it_looks_by_itself(path: Path) -> None:
    async with Remembering(path, interval=0.001) as ours:
        with StateFile(path) as theirs:
            theirs.ban(ALICE)
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
            with StateFile(path) as theirs:
                theirs.ban(peer(failures))
            await ours.next_told()
            assert ours.changes.pop() == BanChange(peer(failures), True)


async def test_what_cannot_be_kept_is_told_to_both(path: Path) -> None:
    async with Remembering(path) as ours:
        with pytest.raises(StateError, match="function"):
            await ours.memory.keep_rule(ALICE, INBOUND, Rule.restricted(lambda *_: True))
        os.unlink(path)
        ours.memory.keep_ban(ALICE, True)  # nobody waits for this one
        ours.memory.keep_ban(BOB, True).cancel()
    assert [error.reason for error in ours.failures] == [
        "a rule by a function cannot be kept",
        "No such file or directory",
        "No such file or directory",
    ]


async def test_cancelling_a_wait_does_not_undo_the_call(path: Path) -> None:
    async with Remembering(path) as ours:
        ours.memory.keep_ban(ALICE, True).cancel()
    assert kept(path).banned == {ALICE}


async def test_the_loop_goes_on_while_the_file_is_locked(path: Path, locked: sqlite3.Connection) -> None:
    async with Remembering(path) as ours:
        committed = ours.memory.keep_ban(ALICE, True)
        done, _ = await asyncio.wait([committed], timeout=0.05)
        assert not done
        locked.execute("ROLLBACK")
        await committed
    assert kept(path).banned == {ALICE}


async def test_only_an_open_one_takes_calls(path: Path) -> None:
    ours = Remembering(path)
    with pytest.raises(ClosedError):
        ours.memory.keep_ban(ALICE, True)
    await ours.memory.close()
    async with ours:
        pass
    somebody = peer(3)
    references = sys.getrefcount(somebody)
    with pytest.raises(ClosedError):
        ours.memory.keep_rule(somebody, BOTH, None)
    assert sys.getrefcount(somebody) == references  # nothing is kept of it
    await ours.memory.close()


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
