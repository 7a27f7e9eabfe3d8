"""The state file: what the firewall remembers over restarts, which is the rules given as answers, and bans.

SQLite lets several processes use it at once: a peer that runs on it, and whoever edits it meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

import msgspec

from ..errors import ClosedError, StateError
from ..events import Direction
from ..firewall.rules import Rule
from ..identity import PeerId

__all__ = ["BanChange", "Change", "FirewallMemory", "Remembered", "RuleChange", "StateFile", "stored_form"]

APPLICATION_ID: Final = 0x53503250
"""In the file's header ("SP2P"): nothing is ever written to the database of another program."""

VERSION: Final = 1
"""Of the schema, also in the header."""

SCHEMA: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
    "CREATE TABLE rules (peer BLOB, direction TEXT, rule TEXT NOT NULL, PRIMARY KEY (peer, direction)) WITHOUT ROWID",
    "CREATE TABLE bans (peer BLOB PRIMARY KEY) WITHOUT ROWID",
    "PRAGMA journal_mode = WAL",
)

BUSY_TIMEOUT: Final = 5.0
"""Seconds for another process to end its transaction; ours take milliseconds."""


class Remembered(NamedTuple):
    """What a state file holds."""

    rules: dict[tuple[PeerId, Direction], Rule]
    """By peer and one direction."""
    banned: frozenset[PeerId]


class StateFile:
    """A state file, created with mode 0600 if it is not there; ``create=False`` wants it to be there.

    A method that changes something returns when the change is on disk: not even the loss of power undoes it. All raise
    StateError if the file cannot be read or written, is not a state file, is damaged, was written by a newer version, or
    has been removed or replaced since. To be used by the thread that made it.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self.path: Final = Path(path)
        with self._errors():
            if create:
                _create(self.path)
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
            with self._transaction("DEFERRED"):
                self._check_header()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left to be written."""
        self._connection.close()

    @property
    def version(self) -> int:
        """Another number whenever somebody else has changed the file; our own changes leave it as it is."""
        with self._errors():
            self._check_in_place()
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def read(self) -> Remembered:
        """All of it, as it is at one moment."""
        with self._transaction("DEFERRED") as connection:
            rules = connection.execute("SELECT peer, direction, rule FROM rules").fetchall()
            bans = connection.execute("SELECT peer FROM bans").fetchall()
        try:
            return Remembered(
                {
                    (PeerId(peer), _DIRECTIONS[direction]): _decode(rule)
                    for peer, direction, rule in msgspec.convert(rules, list[_RuleRow])
                },
                frozenset(PeerId(peer) for (peer,) in msgspec.convert(bans, list[tuple[bytes]])),
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise StateError(self.path, f"holds what is neither a rule nor a ban: {error}") from error

    def set_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> None:
        """Keeps the rule of a peer in each direction named; None removes it. A rule by a function cannot be kept: that
        is a StateError, too."""
        text = None if rule is None else self._encode(rule)
        with self._transaction("IMMEDIATE") as connection:
            for name, side in _DIRECTIONS.items():
                if side not in direction:
                    continue
                if text is None:
                    connection.execute("DELETE FROM rules WHERE peer = ? AND direction = ?", (peer.to_bytes(), name))
                else:
                    connection.execute("INSERT OR REPLACE INTO rules VALUES (?, ?, ?)", (peer.to_bytes(), name, text))

    def ban(self, peer: PeerId) -> None:
        """Keeps a ban."""
        with self._transaction("IMMEDIATE") as connection:
            connection.execute("INSERT OR IGNORE INTO bans VALUES (?)", (peer.to_bytes(),))

    def unban(self, peer: PeerId) -> None:
        """Forgets a ban."""
        with self._transaction("IMMEDIATE") as connection:
            connection.execute("DELETE FROM bans WHERE peer = ?", (peer.to_bytes(),))

    def _check_header(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StateError(self.path, "is not a state file")
        if version != VERSION:
            raise StateError(self.path, f"has version {version}; this program knows version {VERSION}")

    def _check_in_place(self) -> None:
        """SQLite would go on with a file that has no name any more: what it writes there is lost."""
        if _identity(self.path) != self._identity:
            raise StateError(self.path, "was replaced while in use")

    def _encode(self, rule: Rule) -> str:
        if rule.predicate is not None:
            raise StateError(self.path, "a rule by a function cannot be kept")
        return msgspec.json.encode(stored_form(rule)).decode()

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


def stored_form(rule: Rule) -> str | list[str]:
    """A rule that can be kept, as JSON has it: ``"allow"``, ``"reject"``, ``"ask"``, or the types that pass."""
    return _WORDS[rule] if rule.allow is None else sorted(rule.allow)


class RuleChange(NamedTuple):
    """Another rule of a peer, in one direction. If it was removed (``rule`` is None), only the rule that was kept
    (``before``) is meant, not one that a call has set since."""

    peer: PeerId
    direction: Direction
    before: Rule | None
    rule: Rule | None


class BanChange(NamedTuple):
    """A peer that is now banned, or no longer is."""

    peer: PeerId
    banned: bool


Change = RuleChange | BanChange


class FirewallMemory:
    """A state file for an event loop, which it never blocks: a thread of its own reads and writes.

    ``apply`` gets what the file holds at the start, and then what others change in it, within a second. ``failed`` gets
    the errors of writing, and of reading after the start.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        apply: Callable[[Sequence[Change]], None],
        failed: Callable[[StateError], None],
        interval: float = 0.5,
    ) -> None:
        self._file = _TrackedFile(path)
        self._apply = apply
        self._failed = failed
        self._interval = interval
        self._thread: ThreadPoolExecutor | None = None
        self._poll: asyncio.Task[None] | None = None
        self._pending: dict[_Key, asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Opens the file, and applies what it holds; again, after it was closed, what has changed since. Raises
        StateError."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stronghold-p2p-state")
        try:
            await self._run(self._file.open)
            if self._thread is None:
                raise ClosedError("the state file was closed while it was opened")
        except BaseException:
            await self.close()
            raise
        self._poll = asyncio.create_task(self._check_for_ever())

    async def close(self) -> None:
        """Returns when everything is written."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._poll is not None:
            self._poll.cancel()
        closed = thread.submit(self._file.close)
        thread.shutdown(wait=False)  # it ends after its last job, whether or not anybody waits for that below
        ends = {asyncio.wrap_future(closed), *([self._poll] if self._poll is not None else [])}
        await asyncio.wait(ends)

    def keep_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> asyncio.Future[None]:
        """Keeps a rule, or with None forgets it, in each direction named. Writes happen in the order of the calls.

        The future is done when the change is on disk. It need not be awaited, and cancelling it does not undo the call;
        it raises StateError, which ``failed`` gets as well.

        Raises:
            ClosedError: before :meth:`start`, or after :meth:`close`.
        """
        return self._run(lambda: self._file.set_rule(peer, direction, rule), [(peer, side) for side in direction])

    def keep_ban(self, peer: PeerId, banned: bool) -> asyncio.Future[None]:
        """Keeps a ban, or forgets it; as :meth:`keep_rule`."""
        return self._run(lambda: self._file.set_banned(peer, banned), [(peer, None)])

    async def check(self) -> None:
        """Applies what others have changed by now; this happens by itself every ``interval`` seconds. Raises StateError."""
        await self._run(self._file.changes)

    async def _check_for_ever(self) -> None:
        told = None
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.check()
            except StateError as error:
                if error.reason != told:  # what is broken stays so for many checks
                    self._failed(error)
                told = error.reason
            else:
                told = None

    def _run(self, job: Callable[[], Sequence[Change]], writes: Sequence[_Key] = ()) -> asyncio.Future[None]:
        """Has the thread do a job, and applies the changes of others that it found.

        Both happen in the order of the calls, so that our own change and another's end up in the same order here and in
        the file.
        """
        if self._thread is None:
            raise ClosedError("the state file is not open")
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        self._pending.update(dict.fromkeys(writes, finished))

        def settle(done: Future[Sequence[Change]]) -> None:
            for key in writes:
                if self._pending[key] is finished:
                    del self._pending[key]
            error = done.exception()
            if not finished.cancelled():
                if error is None:
                    finished.set_result(None)
                else:
                    finished.set_exception(error)
            if error is None:
                # What we have overwritten since, though not yet in the file, must not come back.
                if changes := [change for change in done.result() if _key(change) not in self._pending]:
                    self._apply(changes)
            elif writes and isinstance(error, StateError):
                finished.cancelled() or finished.exception()  # nobody has to retrieve what ``failed`` gets
                self._failed(error)

        self._thread.submit(job).add_done_callback(lambda done: loop.call_soon_threadsafe(settle, done))
        return finished


class _TrackedFile:
    """A state file, and what is known to be in it. Lives in the thread; its jobs return what others have changed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._file: StateFile | None = None
        self._version: int | None = None
        self._rules: dict[tuple[PeerId, Direction], Rule] = {}
        self._banned: set[PeerId] = set()

    def open(self) -> Sequence[Change]:
        self._file = StateFile(self._path)
        self._version = None  # which is counted from each opening
        return self.changes()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def changes(self) -> Sequence[Change]:
        assert self._file is not None
        version = self._file.version  # first: what changes in between is read now, and not missed later
        if version == self._version:
            return ()
        rules, banned = self._file.read()
        changes: list[Change] = [
            RuleChange(*key, before, rule)
            for key in self._rules | rules
            if (before := self._rules.get(key)) != (rule := rules.get(key))
        ]
        changes += [BanChange(peer, peer in banned) for peer in self._banned ^ banned]
        self._version, self._rules, self._banned = version, rules, set(banned)
        return changes

    def set_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> Sequence[Change]:
        assert self._file is not None
        self._file.set_rule(peer, direction, rule)
        for side in direction:
            if rule is None:
                self._rules.pop((peer, side), None)
            else:
                self._rules[peer, side] = rule
        return ()

    def set_banned(self, peer: PeerId, banned: bool) -> Sequence[Change]:
        assert self._file is not None
        if banned:
            self._file.ban(peer)
            self._banned.add(peer)
        else:
            self._file.unban(peer)
            self._banned.discard(peer)
        return ()


_Key = tuple[PeerId, Direction | None]
"""What one change is about: a peer's rule in one direction, or, with None, its ban."""


def _key(change: Change) -> _Key:
    return (change.peer, change.direction if isinstance(change, RuleChange) else None)


_DIRECTIONS = {"inbound": Direction.INBOUND, "outbound": Direction.OUTBOUND}
_RuleRow = tuple[bytes, Literal["inbound", "outbound"], str]

_WORDS = {Rule.ALLOW_ALL: "allow", Rule.REJECT_ALL: "reject", Rule.ASK: "ask"}
_RULES = {word: rule for rule, word in _WORDS.items()}
_DECODER = msgspec.json.Decoder(Literal["allow", "reject", "ask"] | list[str])


def _decode(text: str) -> Rule:
    """The rules without an argument are told apart by identity, so they must be the very objects. Raises MsgspecError."""
    stored = _DECODER.decode(text)
    return Rule.restricted(allow=stored) if isinstance(stored, list) else _RULES[stored]


def _create(path: Path) -> None:
    """Makes a new file, unless there is one. It appears complete: nobody ever sees it without its schema, or in
    another mode than WAL, to which SQLite cannot change it while others use it."""
    if path.exists():
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".state-")  # with mode 0600
    os.close(descriptor)
    try:
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            for statement in SCHEMA:
                connection.execute(statement)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # SQLite makes its name outlive a power cut: it syncs the folder for the WAL
    finally:
        os.unlink(temporary)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
