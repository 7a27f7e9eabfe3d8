"""``--audit``: each decision of the firewall as a line of JSON in a file. Never what a request holds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ..events import Dropped, Event, FirewallDecision
from . import output

__all__ = ["MAX_WAITING", "AuditFailed", "open_audit", "write_audit"]

MAX_WAITING = 16_384
"""Decisions that wait while the disk is slow; what is beyond is counted in a line instead."""

MAX_TYPE = 200
"""Characters of a type: in untyped JSON it is the remote's own text, with which it could fill the disk."""


class AuditFailed(Exception):
    """Decisions cannot be written down, so none must be made."""

    def __init__(self, path: object, error: OSError) -> None:
        super().__init__(f"audit file {path}: {error.strerror}")


def open_audit(path: Path) -> BinaryIO:
    """The file, to append to; a new one is for its owner alone. Raises AuditFailed."""
    try:
        return open(path, "ab", opener=lambda name, flags: os.open(name, flags, mode=0o600))
    except OSError as error:
        raise AuditFailed(path, error) from error


async def write_audit(file: BinaryIO, events: AsyncIterator[Event]) -> None:
    """Writes the decisions among ``events`` until these end, and closes the file.

    Raises:
        AuditFailed: the disk is full, or gone.
    """
    lines: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
    collecting = asyncio.create_task(_collect(events, lines))
    ended = False
    try:
        with file:
            while not ended:
                batch = [await lines.get()]
                while not lines.empty():
                    batch.append(lines.get_nowait())
                await asyncio.to_thread(_append, file, b"".join(batch))  # a disk may take its time
                ended = not batch[-1]
    except OSError as error:
        raise AuditFailed(file.name, error) from error
    finally:
        collecting.cancel()


async def _collect(events: AsyncIterator[Event], lines: asyncio.Queue[bytes]) -> None:
    """Puts the line of each event that has one, then an empty one."""
    async for event in events:
        record = _record(event)
        if record is not None:
            await lines.put(msgspec.json.encode(record) + b"\n")
    await lines.put(b"")


def _append(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()


def _record(event: Event) -> dict[str, Any] | None:
    match event:
        case FirewallDecision():
            return {
                "time": _now(),
                "peer": str(event.peer),
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
