"""Keeps the address book in a state file, so that a restarted peer knows where others are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..addresses.book import AddressBook
from ..addresses.entry import AddressKey, AddressSource, NamedAddress
from ..errors import StateError
from ..resources.networks import Networks
from ..resources.shares import Shares
from .address_tables import AddressTables
from .database import Database
from .database_thread import DatabaseThread

__all__ = ["AddressMemory"]

KEPT: Final = frozenset((AddressSource.GIVEN, AddressSource.SIGNED_RECORD, AddressSource.IDENTIFY))
"""The others are told anew, or have expired, at the next start."""

MAX_AT_ONCE: Final = 1024
"""Addresses that are written in one interval, about 200 KB: remotes can change theirs at any rate. As many go into the book
in one turn of the loop at the start, which takes 15 ms."""


class AddressMemory:
    """Reads what a state file holds into ``book``, and writes there what changes.

    Changes are collected and written every ``interval`` seconds, and at the end; a crash loses those since. Each is a row
    of its own, so that peers on one file add to each other's; they read it at the start only. ``failed`` gets the errors
    of writing, once until it works again. ``thread`` is open from start to close.
    """

    def __init__(
        self,
        book: AddressBook,
        thread: DatabaseThread,
        *,
        failed: Callable[[StateError], None],
        interval: float = 1.0,
    ) -> None:
        self._book = book
        self._thread = thread
        self._failed = failed
        self._interval = interval
        self._given: dict[AddressKey, None] = {}
        """Changes to be written, of our own code."""
        self._told: Shares[AddressKey] = Shares()
        """The same of what remotes told, by their networks. Beyond the limit of the book, those of the largest are not
        written: the file has an old address then, or lacks a new one."""
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._reason: str | None = None
        """Of the last write, if it has failed."""

    async def start(self) -> None:
        """Adds what the file holds to the book. The file then gets what the book had before, and loses what the book leaves
        out: what has expired, or is over its limits.

        Raises:
            StateError: the file cannot be used.
            ClosedError: it was closed meanwhile.
        """
        given, told = self._book.config.max_given_addresses, self._book.config.max_told_addresses

        def read(database: Database) -> list[NamedAddress]:
            AddressTables(database).trim(given, told)
            return AddressTables(database).read(given, told)

        kept = await self._thread.submit(read)
        self._book.changed = self._changed
        for each in self._book.named():
            self._changed(each.key, each.told_by)
        for start in range(0, len(kept), MAX_AT_ONCE):
            some = kept[start : start + MAX_AT_ONCE]
            self._book.changed = None
            self._book.restore(some)
            self._book.changed = self._changed
            for each in some:
                if self._book.find(each.key) is None:
                    self._changed(each.key, each.told_by)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Returns when everything is written, or cannot be."""
        if self._book.changed != self._changed:
            return
        self._book.changed = None
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        while self._pending:
            await asyncio.wait([self._write()])
            if self._reason is not None:
                return

    @property
    def _pending(self) -> int:
        return len(self._given) + len(self._told)

    def _changed(self, key: AddressKey, told_by: Networks) -> None:
        source = key[-1]
        if source not in KEPT:
            return
        if source is AddressSource.GIVEN:
            self._given[key] = None
        else:
            self._told.discard(key)
            self._told.add(told_by, key)
            if len(self._told) > self._book.config.max_told_addresses:
                self._told.discard(next(self._told.largest()))
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and self._writing is None and self._book.changed is not None and self._pending:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._write)

    def _write(self) -> asyncio.Future[None]:
        """Writes the next changes. The future is done when they have been, or have failed."""
        self._timer = None
        keys = list(self._given)[:MAX_AT_ONCE]
        for key in keys:
            del self._given[key]
        keys += [self._told.next() for _ in range(min(MAX_AT_ONCE - len(keys), len(self._told)))]
        kept = [each for key in keys if (each := self._book.find(key)) is not None]
        gone = set(keys) - {each.key for each in kept}
        self._writing = written = self._thread.submit(lambda database: AddressTables(database).write(kept, gone))
        written.add_done_callback(lambda _: self._written(written, keys))
        return written

    def _written(self, written: asyncio.Future[None], keys: list[AddressKey]) -> None:
        self._writing = None
        error = written.exception()
        if error is None:
            self._reason = None
        elif not isinstance(error, StateError):
            raise error
        else:
            for key in keys:
                each = self._book.find(key)
                self._changed(key, each.told_by if each is not None else (key[-1].value,))
            if error.reason != self._reason:  # what is broken stays so for many writes
                self._failed(error)
            self._reason = error.reason
        self._schedule()
