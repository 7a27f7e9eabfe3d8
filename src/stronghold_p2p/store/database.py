"""The state file: a SQLite database that is opened, checked, and brought to the version that this program knows.

SQLite lets several processes use it at once: a peer that runs on it, and whoever edits it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, Self

import msgspec

from ..errors import StateError

__all__ = ["Database", "Migration"]

APPLICATION_ID: Final = 0x53503250
"""In the file's header ("SP2P"): nothing is ever written to the database of another program."""

Migration = Sequence[str]
"""The statements that make one version of the version before."""

MIGRATIONS: Final[Sequence[Migration]] = (
    (  # version 1: what the firewall remembers
        "CREATE TABLE rules (peer BLOB, direction TEXT, rule TEXT NOT NULL, PRIMARY KEY (peer, direction)) WITHOUT ROWID",
        "CREATE TABLE bans (peer BLOB PRIMARY KEY) WITHOUT ROWID",
    ),
    (  # version 2: the address book
        """CREATE TABLE addresses (peer BLOB, address BLOB, source TEXT, expires REAL, told_by TEXT NOT NULL,
           last_success REAL, PRIMARY KEY (peer, address, source)) WITHOUT ROWID""",
    ),
    (  # version 3: rules with options, and names. An older process that has the file open knows no end of a rule: it reads
        # and writes "rules", where it finds what it may go by instead.
        """CREATE TABLE rules_with_options (peer BLOB, direction TEXT, rule TEXT NOT NULL, PRIMARY KEY (peer, direction))
           WITHOUT ROWID""",
        """CREATE TRIGGER rule_replaced AFTER INSERT ON rules BEGIN
           DELETE FROM rules_with_options WHERE peer = NEW.peer AND direction = NEW.direction; END""",
        """CREATE TRIGGER rule_removed AFTER DELETE ON rules BEGIN
           DELETE FROM rules_with_options WHERE peer = OLD.peer AND direction = OLD.direction; END""",
        "CREATE TABLE names (peer BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE) WITHOUT ROWID",
    ),
)
"""From version to version; the version is in the file's header, too. Files of each are out there, so that an entry is
never changed once it is released. A process of an older version that has the file open goes on with it: what it reads and
writes must stay as it is."""

BUSY_TIMEOUT: Final = 5.0
"""Seconds for another process to end its transaction; ours take milliseconds."""


class Database:
    """A state file, created with mode 0600 if it is not there; ``create=False`` wants it to be there.

    All methods raise StateError if the file cannot be read or written, is not a state file, is damaged, was written by a newer
    version, or has been removed or replaced since. To be used by the thread that made it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, create: bool = True, migrations: Sequence[Migration] = MIGRATIONS
    ) -> None:
        self.path: Final = Path(path)
        self._newest = len(migrations)
        with self._errors():
            if create:
                _create(self.path, migrations)
            if self.path.is_dir():
                raise StateError(self.path, "is a folder")
            self._identity = _identity(self.path)
            if not os.access(self.path, os.W_OK):  # SQLite says so no earlier than at the first change
                raise StateError(self.path, "is not writable")
            self._connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
            )
        try:
            with self._errors():
                # In WAL mode only FULL syncs at each commit. fullfsync is for macOS, where fsync leaves bytes in the
                # drive's cache.
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("PRAGMA fullfsync = ON")
            with self.read():
                is_old = self._check_header() < self._newest
            if is_old:
                with self.write() as connection:
                    _migrate(connection, self._check_header(), migrations)  # by now another process may have done it
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left to be written."""
        self._connection.close()

    @property
    def data_version(self) -> int:
        """A number that changes with every external change of the file, but not with our own."""
        with self._errors():
            self._check_in_place()
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def read(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """The file as it is at one moment."""
        return self._transaction("DEFERRED")

    def write(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Changes that happen all or not at all; at the end they are on disk, and not even the loss of power undoes
        them."""
        return self._transaction("IMMEDIATE")

    @contextlib.contextmanager
    def decoding(self, what: str) -> Iterator[None]:
        """For values of the file, which are to be ``what``: that they are none is a StateError, too."""
        try:
            yield
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise StateError(self.path, f"contains an invalid {what}: {error}") from error

    def _check_header(self) -> int:
        """Returns the version."""
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StateError(self.path, "is not a state file")
        if not 1 <= version <= self._newest:
            raise StateError(self.path, f"has version {version}; this program knows versions up to {self._newest}")
        return int(version)

    def _check_in_place(self) -> None:
        """SQLite would go on with a file that has no name any more: what it writes there is lost."""
        if _identity(self.path) != self._identity:
            raise StateError(self.path, "was replaced while in use")

    @contextlib.contextmanager
    def _transaction(self, kind: Literal["DEFERRED", "IMMEDIATE"]) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._check_in_place()
            with self._connection:  # commits, or rolls back
                self._connection.execute(f"BEGIN {kind}")
                yield self._connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateError(self.path, str(error)) from error
        except UnicodeDecodeError as error:  # sqlite3 failed to decode SQLite's message, which quotes damaged text
            raise StateError(self.path, "is damaged") from error
        except OSError as error:
            raise StateError(self.path, error.strerror or str(error)) from error


def _create(path: Path, migrations: Sequence[Migration]) -> None:
    """Makes a new file, unless there is one. It appears complete: nobody ever sees it without its schema, or in
    another mode than WAL, to which SQLite cannot change it while others use it."""
    if path.exists():
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".state-")  # with mode 0600
    os.close(descriptor)
    try:
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _migrate(connection, 0, migrations)
            connection.execute("PRAGMA journal_mode = WAL")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # SQLite makes its name outlive a power cut: it syncs the folder for the WAL
    finally:
        os.unlink(temporary)


def _migrate(connection: sqlite3.Connection, version: int, migrations: Sequence[Migration]) -> None:
    for migration in migrations[version:]:
        for statement in migration:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
