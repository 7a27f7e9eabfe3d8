"""``--audit``: each firewall decision as a line of JSON in a file, never the content of a request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ..events import Dropped, Event, FirewallDecision
from . import output, paths
from .text import json_text
from .worker import Worker

__all__ = ["MAX_WAITING", "AuditFailed", "AuditFile", "end_audit", "open_audit", "write_audit"]

MAX_WAITING = 16_384
"""Decisions that wait while the disk is slow; what is beyond is counted in a line instead."""

MAX_TYPE = 200
"""Characters of a type: in untyped JSON it is the remote's own text, with which it could fill the disk."""

PATIENCE = 5.0
"""Seconds for the last decisions to be written when the peer is closed, as ``Config.close_timeout`` has for what runs."""


class AuditFailed(Exception):
    """The audit cannot be written, so the peer must stop deciding."""

    def __init__(self, path: object, reason: str | None) -> None:
        super().__init__(f"audit file {path}: {reason}")


class AuditFile:
    """What stands at a path, to append to: a file that is made there again when it was moved or removed, a pipe, a device.

    A pipe that nobody reads blocks whoever opens it or writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _open(path)

    def append(self, data: bytes) -> None:
        """Raises OSError."""
        if self._is_elsewhere():
            before, self._descriptor = (
                self._descriptor,
                _open(self.path, os.O_NONBLOCK),
            )  # a pipe without a reader: error
            os.close(before)
            os.set_blocking(self._descriptor, True)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        os.close(self._descriptor)

    def _is_elsewhere(self) -> bool:
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | flags, mode=0o600)


def open_audit(path: Path) -> AuditFile:
    """The file; a new one is for its owner alone. Waits for a pipe's reader. Raises AuditFailed."""
    try:
        return AuditFile(path)
    except OSError as error:
        raise AuditFailed(path, error.strerror) from error


async def write_audit(file: AuditFile, events: AsyncIterator[Event]) -> None:
    """Writes the decisions among ``events`` until these end, and closes the file.

    Raises:
        AuditFailed: the disk is full, or gone, or the last decisions are not taken.
    """
    lines: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
    collecting = asyncio.create_task(_collect(events, lines))
    worker = Worker("audit")  # a disk may take its time, and a pipe for ever
    ended = False
    try:
        while not ended:
            batch = [await lines.get()]
            while not lines.empty():
                batch.append(lines.get_nowait())
            ended = not batch[-1]
            if data := b"".join(batch):
                await asyncio.wrap_future(worker.submit(partial(file.append, data)))
    except OSError as error:
        raise AuditFailed(file.path, error.strerror) from error
    finally:
        collecting.cancel()
        worker.submit(file.close)
        worker.stop()


async def end_audit(writing: asyncio.Task[None], file: AuditFile) -> None:
    """Returns when the last decision is written, for which the events must have ended. Raises AuditFailed."""
    done, _ = await asyncio.wait([writing], timeout=PATIENCE)
    if not done:
        writing.cancel()
        raise AuditFailed(file.path, "the last decisions could not be written")
    await writing


async def _collect(events: AsyncIterator[Event], lines: asyncio.Queue[bytes]) -> None:
    """Puts the line of each event that has one, then an empty one."""
    async for event in events:
        record = _record(event)
        if record is not None:
            await lines.put(f"{json_text(record, plain=False)}\n".encode())
    await lines.put(b"")


def _record(event: Event) -> dict[str, Any] | None:
    match event:
        case FirewallDecision():
            return {
                "time": _now(),
                "peer": str(event.peer),
                "address": None if event.address is None else str(event.address),
                "relay": paths.relay_of(event.address),
                "direction": str(event.direction.name).lower(),
                "type": None if event.type is None else output.printable(event.type, MAX_TYPE),
                "rule": event.rule,
                "layer": event.layer,
                "allowed": event.allowed,
                "waited": round(event.waited, 3),
            }
        case Dropped():
            return {"time": _now(), "dropped": event.count}
        case _:
            return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
