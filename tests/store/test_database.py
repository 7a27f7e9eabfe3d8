from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.state import opened

from stronghold_p2p.errors import StateError
from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.store import database as database_module
from stronghold_p2p.store.address_tables import AddressTables
from stronghold_p2p.store.database import MIGRATIONS, Database
from stronghold_p2p.store.firewall_tables import FirewallTables, Remembered

from .conftest import ALICE, BOB, CAROL, PING, peer

BOTH = Direction.BOTH

# -- the file -----------------------------------------------------------------------------------------


def test_only_its_owner_can_read_it(path: Path) -> None:
    with opened(path) as file:
        file.set_banned(ALICE, True)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["state.db", "state.db-wal", "state.db-shm"], 0o600)


def test_a_commit_survives_the_loss_of_power(path: Path) -> None:
    """That cannot be tried here; these are the settings that SQLite documents for it."""
    for _ in "made", "opened":
        with Database(path) as database, database.read() as connection:
            pragmas = {
                name: connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "fullfsync")
            }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}


def test_the_data_version_tells_of_the_changes_of_others(path: Path) -> None:
    with Database(path) as ours, Database(path) as theirs:
        versions = [ours.data_version]
        for database in (ours, theirs, theirs, ours):
            for banned in (True, False):
                FirewallTables(database).set_banned(ALICE, banned)
            versions.append(ours.data_version)
    assert versions[0] == versions[1]
    assert len(set(versions[1:4])) == 3
    assert versions[3] == versions[4]


def test_a_change_that_fails_changes_nothing(path: Path) -> None:
    with opened(path) as tables, Database(path) as database:
        tables.set_banned(ALICE, True)
        with pytest.raises(StateError, match="no such table"):
            _change(database, "DELETE FROM rules", "DELETE FROM bans", "DELETE FROM nowhere")
        assert tables.read().banned == {ALICE}


def _change(database: Database, *statements: str) -> None:
    with database.write() as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_name_that_a_uri_would_mistake(tmp_path: Path) -> None:
    for name in ("what?mode=memory", "100%41", "a#b", ":memory:"):
        with opened(tmp_path / name) as file:
            file.set_banned(ALICE, True)
        with Database(tmp_path / name, create=False) as database:
            assert FirewallTables(database).read().banned == {ALICE}


# -- several at once ----------------------------------------------------------------------------------


def test_many_make_the_same_file_at_once(path: Path) -> None:
    barrier = threading.Barrier(8)

    def make(number: int) -> None:
        barrier.wait()
        with opened(path) as file:
            file.set_banned(peer(number), True)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(8)))
    with opened(path) as file:
        assert file.read().banned == set(map(peer, range(8)))


def test_whoever_holds_the_file_for_too_long(
    path: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", 0.0)
    with opened(path) as file:
        with pytest.raises(StateError, match="locked"):
            file.set_banned(ALICE, True)
        assert not file.read().banned
        locked.execute("ROLLBACK")
        file.set_banned(ALICE, True)


# -- versions -----------------------------------------------------------------------------------------

VERSION_1 = f"""
PRAGMA application_id = 0x53503250;
PRAGMA user_version = 1;
CREATE TABLE rules (peer BLOB, direction TEXT, rule TEXT NOT NULL, PRIMARY KEY (peer, direction)) WITHOUT ROWID;
CREATE TABLE bans (peer BLOB PRIMARY KEY) WITHOUT ROWID;
PRAGMA journal_mode = WAL;
INSERT INTO rules VALUES (x'{ALICE.to_bytes().hex()}', 'inbound', '["Ping"]');
INSERT INTO bans VALUES (x'{BOB.to_bytes().hex()}');
"""
"""A file as the first release has made it, which is out there for good."""

HELD = Remembered({(ALICE, Direction.INBOUND): PING}, frozenset({BOB}))
"""What it holds."""

CHAIN = (
    *MIGRATIONS,
    ("CREATE TABLE migrated (version)", "INSERT INTO migrated VALUES (4)"),
    ("ALTER TABLE migrated ADD COLUMN note", "INSERT INTO migrated VALUES (5, 'fifth')"),
)
"""Versions that there might be one day."""

BROKEN = (*CHAIN, ("DELETE FROM bans", "DROP TABLE migrated", "INSERT INTO migrated VALUES (6)"))


def make_version_1(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)


def content(path: Path) -> tuple[int, list[str]]:
    """The version, and all the statements that would make the same file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0], list(connection.iterdump())


def test_a_file_of_version_1_is_used(path: Path) -> None:
    make_version_1(path)
    with opened(path) as tables:
        assert tables.read() == HELD
        tables.set_rule(ALICE, BOTH, None)
        tables.set_banned(BOB, False)
        assert tables.read() == Remembered({}, frozenset())


def test_a_file_of_version_2_is_brought_to_version_3(path: Path) -> None:
    """The program before has made it."""
    shutil.copyfile(Path(__file__).with_name("state_version_2.db"), path)
    book = [(ALICE, "/ip4/192.0.2.1/tcp/4001")]
    held = Remembered(
        {
            (ALICE, Direction.INBOUND): Rule.restricted(allow={"Ping"}, ask={"Sign"}, reject={"Wipe"}),
            (ALICE, Direction.OUTBOUND): Rule.ALLOW_ALL,
            (BOB, Direction.INBOUND): PING,
            (BOB, Direction.OUTBOUND): Rule.restricted(reject={"Sign"}, otherwise="ask"),
        },
        frozenset({CAROL}),
    )
    assert content(path)[0] == 2
    for _ in "migrated", "opened":
        with Database(path) as database:
            assert FirewallTables(database).read() == held
            assert [(one.peer, str(one.address)) for one in AddressTables(database).read(9, 9)] == book
    assert content(path)[0] == 3
    with pytest.raises(StateError, match="has version 3; this program knows versions up to 2"):
        Database(path, migrations=MIGRATIONS[:2])


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5])
def test_a_file_of_every_version_is_brought_to_the_newest(path: Path, version: int) -> None:
    if version:
        make_version_1(path)
        Database(path, migrations=CHAIN[:version]).close()
    with Database(path, migrations=CHAIN) as database:
        assert FirewallTables(database).read() == (HELD if version else Remembered({}, frozenset()))
        with database.read() as connection:
            assert connection.execute("SELECT * FROM migrated").fetchall() == [(4, None), (5, "fifth")]
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert content(path)[0] == 5
    with pytest.raises(StateError, match="has version 5; this program knows versions up to 4"):
        Database(path, migrations=CHAIN[:4])


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, version: int) -> None:
    """So the program that wrote it can still be used."""
    make_version_1(path)
    Database(path, migrations=CHAIN[:version]).close()
    before = content(path)
    with pytest.raises(StateError, match="no such table: migrated"):
        Database(path, migrations=BROKEN)
    assert content(path) == before
    with Database(path, migrations=CHAIN[:version]) as database:
        assert FirewallTables(database).read() == HELD


def test_a_migration_that_fails_makes_no_file(path: Path) -> None:
    with pytest.raises(StateError, match="no such table: migrated"):
        Database(path, migrations=BROKEN)
    assert os.listdir(path.parent) == []


def test_who_has_the_file_open_goes_on_through_a_migration(path: Path) -> None:
    with Database(path, migrations=MIGRATIONS[:1]) as older:
        FirewallTables(older).set_banned(ALICE, True)
        version = older.data_version
        with Database(path) as newer:
            assert older.data_version != version
            FirewallTables(older).set_banned(BOB, True)
            assert FirewallTables(newer).read().banned == {ALICE, BOB}


OPEN_AT_ONCE = """
import sys
from stronghold_p2p.store.database import Database

migrations = eval(sys.argv[2])
for number in range(int(sys.argv[3])):
    print(flush=True)
    sys.stdin.readline()
    with Database(f"{sys.argv[1]}/{number}", migrations=migrations) as database, database.read() as connection:
        assert len(connection.execute("SELECT * FROM migrated").fetchall()) == 2
"""


def test_two_processes_that_open_a_file_at_once_migrate_it_once(tmp_path: Path) -> None:
    """Twice would fail: a table cannot be made again."""
    files = 8
    for number in range(files):
        make_version_1(tmp_path / str(number))
    arguments = [sys.executable, "-c", OPEN_AT_ONCE, str(tmp_path), repr(CHAIN), str(files)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(arguments, **pipes) as one, subprocess.Popen(arguments, **pipes) as other:
        for _ in range(files):
            for process in (one, other):
                assert process.stdout is not None
                process.stdout.readline()  # it is ready
            for process in (one, other):
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it has failed
                    process.stdin.write("\n")
    assert (one.returncode, other.returncode) == (0, 0)
    assert [content(tmp_path / str(number))[0] for number in range(files)] == [5] * files


# -- what is no state file ----------------------------------------------------------------------------


def other_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rules (peer, direction, rule)")
        connection.execute("PRAGMA user_version = 1")
    connection.close()


def of_version(path: Path, version: int) -> None:
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def cut_off(path: Path) -> None:
    Database(path).close()
    os.truncate(path, 4096)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("rules = []\n" * 100), "not a database"),
        (Path.touch, "not a state file"),
        (other_program, "not a state file"),
        (lambda path: of_version(path, 4), "has version 4; this program knows versions up to 3"),
        (lambda path: of_version(path, 0), "has version 0"),
        (lambda path: of_version(path, -1), "has version -1"),
        (cut_off, "malformed"),
        (Path.mkdir, "is a folder"),
    ],
)
def test_what_is_no_state_file_is_refused_and_left_as_it_is(path: Path, make: Any, reason: str) -> None:
    make(path)
    before = path.is_file() and path.read_bytes()
    with pytest.raises(StateError, match=reason) as raised, opened(path) as tables:
        tables.read()
    assert raised.value.path == str(path)
    assert (path.is_file() and path.read_bytes()) == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="No such file"):
        Database(tmp_path / "folder" / "state.db")


def test_a_file_that_should_be_there_is_not_made(path: Path) -> None:
    with pytest.raises(StateError, match="No such file"):
        Database(path, create=False)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
@pytest.mark.parametrize("mode", [0o400, 0o000])
def test_a_file_that_must_not_be_written(path: Path, mode: int) -> None:
    Database(path).close()
    path.chmod(mode)
    with pytest.raises(StateError, match="is not writable"):
        Database(path)


@pytest.mark.parametrize(
    "use",
    [
        lambda database: FirewallTables(database).read(),
        lambda database: database.data_version,
        lambda database: FirewallTables(database).set_banned(ALICE, True),
    ],
)
def test_a_file_that_is_removed_or_replaced_while_in_use(path: Path, use: Any) -> None:
    with Database(path) as database:
        path.unlink()
        with pytest.raises(StateError, match="No such file"):
            use(database)
        path.touch()
        with pytest.raises(StateError, match="was replaced"):
            use(database)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "state.db"
    with opened(path) as file:
        for number in range(40):
            file.set_rule(peer(number), BOTH, PING)
            file.set_banned(peer(number), True)
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(100))
def test_damage_is_a_state_error_and_nothing_else(path: Path, sound: bytes, seed: int) -> None:
    numbers = random.Random(seed)
    damaged = bytearray(sound)
    for _ in range(numbers.choice([1, 4, 64])):
        damaged[numbers.randrange(len(damaged) if seed % 2 else 200)] = numbers.randrange(256)
    path.write_bytes(damaged[: numbers.choice([None, None, numbers.randrange(len(damaged))])])
    with contextlib.suppress(StateError), opened(path) as file:
        file.read()
        file.set_rule(ALICE, BOTH, Rule.ASK)
