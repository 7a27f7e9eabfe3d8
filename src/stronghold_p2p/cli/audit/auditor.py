"""``--audit``: writes what happens to a peer into a file, also while the disk is slow, full or gone for a while."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from ...ending import end_all, together
from ...errors import LimitExceeded, NotPermitted
from ...events import Event, InboundConnectionFailed
from ...peer import StrongholdP2p
from ...version import VERSION
from .. import output
from ..ask.shown import view_text
from ..worker import Worker
from .file import AuditFailed, AuditFile, now
from .options import Audit
from .record import Record, record_of, refused

__all__ = ["Auditor", "auditing"]

logger = logging.getLogger("stronghold_p2p")

MAX_WAITING: Final = 16_384
"""Lines that wait while the disk is slow, and as many events; what is beyond is counted in a line instead."""

SIGN_AFTER: Final = 2.0
"""Seconds until lines are signed, for those that are too few for a head: a crash leaves no more unproven."""

REFUSED_INTERVAL: Final = 1.0
"""Seconds of refused connections in one line: a remote can try any number."""

STALLED_AFTER: Final = 5.0
"""Seconds after which a write that does not end counts as failed: a pipe that nobody reads, a disk that is gone."""

RETRY_AFTER: Final = 1.0
"""Seconds until it is tried again after a failure."""

REMIND_AFTER: Final = 60.0
"""Seconds until the log says again that the audit cannot be written."""

PATIENCE: Final = 5.0
"""Seconds for the last lines to be written when the peer is closed, as ``Config.close_timeout`` has for what runs."""


class Writable(Protocol):
    """The part of an :class:`AuditFile` that is used here; called in a thread, one after the other."""

    @property
    def path(self) -> Path: ...
    @property
    def is_signed(self) -> bool: ...
    def append(self, records: deque[Record], /) -> None: ...
    def sign(self) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


class Auditor:
    """Writes a line for each event that has one, in a thread: a disk may take its time, and a pipe for ever.

    While the file cannot be written, lines wait; it is tried again every second, and what finds no room any more is counted.
    ``failing`` is called with the reason when it begins, and with None when it has ended. Nothing is written before there
    is something to say: before :meth:`begin`, or an event.
    """

    def __init__(self, file: Writable, first: Record, *, failing: Callable[[str | None], None]) -> None:
        """``first``: goes before all others."""
        self._file = file
        self._first: Record | None = first
        self._failing = failing
        self._failed_at: float | None = None
        self._reminded_at = 0.0
        self._waiting: deque[Record] = deque()
        self._missing = 0
        """Lines that found no room."""
        self._refused = 0
        """Connections that no line tells of yet."""
        self._last_refused: InboundConnectionFailed | None = None
        self._refusing: asyncio.TimerHandle | None = None
        self._sign_at: float | None = None
        self._reopen = False
        self._ended = asyncio.Event()
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """The peer runs."""
        if self._first is not None:
            first, self._first = self._first, None
            self._put(first)

    def reopen(self) -> None:
        """Goes on in a new file if the one before was moved away."""
        self._reopen = True
        self._changed.set()

    async def run(self, events: AsyncIterator[Event]) -> None:
        """Returns when the last of the events is written.

        Raises:
            AuditFailed: the events have ended, and the last lines cannot be written.
        """
        async with together() as tasks:
            tasks.create_task(self._write())
            async for event in events:
                self._take(event)
            self._tell_refused()
            if self._first is None:
                self._put({"event": "stop"})
            self._ended.set()
            self._changed.set()

    # -- what is to be written -----------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        """Never waits: what waits in the reader of events has no limit in bytes."""
        match event:
            case InboundConnectionFailed(_, NotPermitted() | LimitExceeded()):
                self._refused += 1
                self._last_refused = event
                if self._refusing is None:
                    self._refusing = asyncio.get_running_loop().call_later(REFUSED_INTERVAL, self._tell_refused)
            case _ if (record := record_of(event)) is not None:
                self.begin()
                self._put(record)

    def _tell_refused(self) -> None:
        if self._refusing is not None:
            self._refusing.cancel()
            self._refusing = None
        if self._last_refused is not None:
            record = refused(self._refused, self._last_refused.address, self._last_refused.error)
            self._refused, self._last_refused = 0, None
            self.begin()
            self._put(record)

    def _put(self, record: Record) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._missing += 1
            self._fail("lines come faster than it takes them")
            return
        self._waiting.append({"time": now(), **record})
        self._changed.set()

    # -- writing -------------------------------------------------------------------------------------

    async def _write(self) -> None:
        worker = Worker("audit")
        try:
            while not (self._ended.is_set() and not self._waiting):
                sign = await self._something_to_do()
                batch, self._waiting = self._waiting, deque()
                if self._missing:
                    batch.append({"time": now(), "event": "dropped", "dropped": self._missing})
                    self._missing = 0
                reopen, self._reopen = self._reopen, False
                await self._try(worker, partial(_do, self._file, batch, reopen=reopen, sign=sign))
            if self._first is None:
                await self._try(worker, self._file.sign)
        finally:
            closing = worker.submit(self._file.close)
            worker.stop()
        await asyncio.wrap_future(closing)

    async def _something_to_do(self) -> bool:
        """Waits for something to write; returns whether it is time to sign."""
        loop = asyncio.get_running_loop()
        if self._file.is_signed:
            self._sign_at = None
        elif self._sign_at is None:
            self._sign_at = loop.time() + SIGN_AFTER
        try:
            async with asyncio.timeout_at(self._sign_at):
                await self._changed.wait()
        except TimeoutError:
            self._sign_at = None
            return True
        self._changed.clear()
        return False

    async def _try(self, worker: Worker, job: Callable[[], None]) -> None:
        """Does it, as often as it takes; after the end, once."""
        while True:
            doing = asyncio.wrap_future(worker.submit(job))
            try:
                done, _ = await asyncio.wait([doing], timeout=STALLED_AFTER)
                if not done:
                    self._fail("it takes nothing any more")
                await doing
            except OSError as error:
                reason = error.strerror or str(error)
                if self._ended.is_set():
                    raise AuditFailed(self._file.path, f"the last lines could not be written: {reason}") from error
                self._fail(reason)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_AFTER):
                        await self._ended.wait()
            else:
                self._succeed()
                return
            finally:
                doing.cancel()  # nobody asks any more what becomes of it

    def _fail(self, reason: str) -> None:
        time = asyncio.get_running_loop().time()
        if self._failed_at is None:
            self._failed_at = self._reminded_at = time
            self._failing(reason)
        elif time - self._reminded_at >= REMIND_AFTER:
            self._reminded_at = time
            logger.error("audit file %s: still not written: %s", self._file.path, reason)

    def _succeed(self) -> None:
        if self._failed_at is not None:
            self._failed_at = None
            self._failing(None)


def _do(file: Writable, batch: deque[Record], *, reopen: bool, sign: bool) -> None:
    if reopen:
        file.reopen()
    file.append(batch)
    if sign:
        file.sign()


class Auditing:
    """An audit that is written."""

    def __init__(self, auditor: Auditor, running: asyncio.Task[None]) -> None:
        self.begin = auditor.begin
        self.reopen = auditor.reopen
        self._running = running

    async def watch(self) -> None:
        """Raises what ends it."""
        await asyncio.shield(self._running)


@asynccontextmanager
async def auditing(peer: StrongholdP2p[Any, Any], audit: Audit | None) -> AsyncIterator[Auditing | None]:
    """Writes what happens to the peer; at the end, closes both. Without an audit, does nothing.

    Raises:
        AuditFailed: the last lines could not be written.
    """
    if audit is None:
        yield None
        return
    path = audit.file.path

    def failing(reason: str | None) -> None:
        if audit.required:
            (peer.resume_requests if reason is None else peer.suspend_requests)()
        if reason is None:
            logger.error("audit file %s: it is written again", path)
            return
        then = "requests are rejected until it can be written" if audit.required else "requests are decided as before"
        logger.error("audit file %s: %s; %s; lines that find no room are counted", path, reason, then)
        if output.is_json():
            output.error(AuditFailed(path, reason))

    first = {"event": "start", "peer": str(peer.peer_id), "version": VERSION}
    auditor = Auditor(audit.file, first, failing=failing)
    views = view_text if audit.views else None
    # A flood must not wash away what was before it.
    events = peer.events(buffer=MAX_WAITING, when_full="drop_newest", decisions=True, views=views)
    running = asyncio.create_task(auditor.run(events))
    try:
        yield Auditing(auditor, running)
    finally:
        await end_all(peer.close, partial(_end, running, audit.file))


async def _end(running: asyncio.Task[None], file: AuditFile) -> None:
    """Returns when the last line is written, for which the events must have ended."""
    done, _ = await asyncio.wait([running], timeout=PATIENCE)
    if not done:
        running.cancel()
        raise AuditFailed(file.path, "the last lines could not be written")
    await running
