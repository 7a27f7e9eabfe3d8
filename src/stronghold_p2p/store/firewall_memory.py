"""The stored rules, bans and names, synchronized with a state file that others can edit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ..errors import ClosedError, StateError
from ..events import Direction
from ..firewall.rule import Rule, left_at
from ..identity import PeerId
from .changes import BanChange, Change, NameChange, RuleChange
from .database import Database
from .database_thread import DatabaseThread
from .firewall_tables import FirewallTables
from .name_table import NameTable

__all__ = ["FirewallMemory"]

_Key = tuple[PeerId, Direction | Literal["ban", "name"]]
"""What one change is about: a peer's rule in one direction, its ban or its name."""

_Job = Callable[[Database], Sequence[Change]]
"""What is to be done in the thread; returns what others have changed."""


class FirewallMemory:
    """The rules, bans and names in a state file, for an event loop.

    ``apply`` gets what the file holds at the start, and then what others change in it, within a second. ``failed`` gets
    the errors of writing, and of reading after the start. ``thread`` is opened at the start, and closed at the end.
    """

    def __init__(
        self,
        thread: DatabaseThread,
        *,
        apply: Callable[[Sequence[Change]], None],
        failed: Callable[[StateError], None],
        interval: float = 0.5,
    ) -> None:
        self._thread = thread
        self._known = _Known()
        self._apply = apply
        self._failed = failed
        self._interval = interval
        self._poll: asyncio.Task[None] | None = None
        self._pending: dict[_Key, asyncio.Future[None]] = {}
        self._early: dict[_Key, _Job] = {}
        """What the start has to write, before it reads, in order."""

    async def start(self) -> None:
        """Opens the file, and applies what it holds; what was to be kept before the start goes before that.

        Raises:
            StateError: the file cannot be used.
            ClosedError: it was closed meanwhile.
        """
        early = tuple(dict.fromkeys(self._early.values()))
        self._thread.open()
        try:
            await self._run(lambda database: self._known.begin(database, early))
            if not self._thread.is_open:
                raise ClosedError("the state file was closed while being opened")
        except BaseException:
            await self.close()
            raise
        self._early.clear()
        self._poll = asyncio.create_task(self._check_for_ever())

    async def close(self) -> None:
        """Returns when everything is written."""
        ends: list[asyncio.Future[None]] = [self._thread.close()]
        if self._poll is not None:
            self._poll.cancel()
            ends.append(self._poll)
        await asyncio.wait(ends)

    def keep_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> asyncio.Future[None] | None:
        """Keeps a rule, or with None forgets it, in each direction named. Writes happen in the order of the calls.

        The future is done when the change is on disk. It need not be awaited, and cancelling it does not undo the call;
        it raises StateError, which ``failed`` gets as well. None while the file is not open: :meth:`start` will do it.
        """
        return self._keep(
            [(peer, side) for side in direction],
            lambda database: self._known.set_rule(database, peer, direction, rule),
        )

    def keep_ban(self, peer: PeerId, banned: bool) -> asyncio.Future[None] | None:
        """Keeps a ban, or forgets it; as :meth:`keep_rule`."""
        return self._keep([(peer, "ban")], lambda database: self._known.set_banned(database, peer, banned))

    def keep_name(self, peer: PeerId, name: str | None) -> asyncio.Future[None] | None:
        """Keeps a petname, or forgets it; as :meth:`keep_rule`. If another process gives names at the same time, the last one
        to write has it."""
        return self._keep([(peer, "name")], lambda database: self._known.set_name(database, peer, name))

    def drop_ended(self, ends: Mapping[tuple[PeerId, Direction], float]) -> None:
        """Forgets what has ended of rules, as :meth:`FirewallTables.drop_ended`; what others have set since is applied as
        ever. While the file is not open there is nothing to do: the next start finds what has ended."""
        if self._thread.is_open:
            self._run(lambda database: self._known.drop_ended(database, ends), [])

    async def check(self) -> None:
        """Applies external changes; runs automatically every ``interval`` seconds.

        Raises:
            StateError: the file cannot be read.
        """
        await self._run(self._known.changes)

    def _keep(self, keys: Sequence[_Key], job: _Job) -> asyncio.Future[None] | None:
        if self._thread.is_open:
            return self._run(job, keys)
        for key in keys:
            self._early.pop(key, None)
            self._early[key] = job  # behind those of which it overwrites a part
        return None

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

    def _run(self, job: _Job, writes: Sequence[_Key] | None = None) -> asyncio.Future[None]:
        """Has the thread do a job, and applies the changes of others that it found. ``writes``: what it overwrites whatever
        others have written; None: it only reads.

        Both happen in the order of the calls, so that our own change and another's end up in the same order here and in
        the file.
        """
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settle(done: asyncio.Future[Sequence[Change]]) -> None:
            for key in writes or ():
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
            elif writes is not None and isinstance(error, StateError):
                finished.cancelled() or finished.exception()  # nobody has to retrieve what ``failed`` gets
                self._failed(error)

        self._thread.submit(job).add_done_callback(settle)
        self._pending.update(dict.fromkeys(writes or (), finished))
        return finished


class _Known:
    """What is known to be in the file. Lives in the thread; its jobs return what others have changed."""

    def __init__(self) -> None:
        self._version: int | None = None
        self._rules: dict[tuple[PeerId, Direction], Rule] = {}
        self._banned: set[PeerId] = set()
        self._names: dict[PeerId, str] = {}

    def begin(self, database: Database, early: Sequence[_Job]) -> Sequence[Change]:
        self._version = None
        for job in early:
            job(database)
        return self.changes(database)

    def changes(self, database: Database) -> Sequence[Change]:
        version = database.data_version  # first: what changes in between is read now, and not missed later
        if version == self._version:
            return ()
        rules, banned = FirewallTables(database).read()
        names = NameTable(database).read()
        changes: list[Change] = [
            RuleChange(*key, before, rule)
            for key in self._rules | rules
            if (before := self._rules.get(key)) != (rule := rules.get(key))
        ]
        changes += [BanChange(peer, peer in banned) for peer in self._banned ^ banned]
        named = dict(self._names.items() ^ names.items())
        # Those that lose their names first: another peer may have got one of them, and only one can have it.
        changes += [NameChange(peer, names.get(peer)) for peer in sorted(named, key=names.__contains__)]
        self._version, self._rules, self._banned, self._names = version, rules, set(banned), names
        return changes

    def set_rule(self, database: Database, peer: PeerId, direction: Direction, rule: Rule | None) -> Sequence[Change]:
        FirewallTables(database).set_rule(peer, direction, rule)
        for side in direction:
            if rule is None:
                self._rules.pop((peer, side), None)
            else:
                self._rules[peer, side] = rule
        return ()

    def drop_ended(self, database: Database, ends: Mapping[tuple[PeerId, Direction], float]) -> Sequence[Change]:
        FirewallTables(database).drop_ended(ends)
        for key, end in ends.items():
            rule = left_at(self._rules.pop(key, None), end)
            if rule is not None:
                self._rules[key] = rule
        return ()

    def set_banned(self, database: Database, peer: PeerId, banned: bool) -> Sequence[Change]:
        FirewallTables(database).set_banned(peer, banned)
        if banned:
            self._banned.add(peer)
        else:
            self._banned.discard(peer)
        return ()

    def set_name(self, database: Database, peer: PeerId, name: str | None) -> Sequence[Change]:
        losers = NameTable(database).set(peer, name)
        for each in (peer, *losers):
            self._names.pop(each, None)
        if name is not None:
            self._names[peer] = name
        # Ours, too: what others had written before may have taken it away.
        return [NameChange(peer, name), *(NameChange(loser, None) for loser in losers)]


def _key(change: Change) -> _Key:
    match change:
        case RuleChange(peer, direction):
            return peer, direction
        case BanChange(peer):
            return peer, "ban"
        case NameChange(peer):
            return peer, "name"
