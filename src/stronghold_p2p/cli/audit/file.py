"""The file of an audit: lines of one chain, over restarts and rotations."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from ...identity import Keypair
from .chain import BEGINNING, MAX_LINE, Link, Position, chained, parse, signed_head

__all__ = ["HEAD_EVERY", "TORN", "AuditFailed", "AuditFile", "now"]

HEAD_EVERY: Final = 256
"""Lines between two signed heads, at most: a signature takes as long as some ten lines."""

TORN: Final = b" (torn)\n"
"""Ends a line that has no end. It must not pass for a whole one, even if nothing but the end is missing."""


class AuditFailed(Exception):
    """The audit cannot be written."""

    def __init__(self, path: object, reason: str | None) -> None:
        super().__init__(f"audit file {path}: {reason}")


class AuditFile:
    """What stands at a path, to append to: a file that is made there again when it was moved or removed, a pipe, a device.

    A pipe that nobody reads blocks whoever opens it or writes. Its chain goes on from the file's last line; a new file is for
    its owner alone, and begins with a line that says which one is before. ``keypair`` signs the heads.
    """

    def __init__(self, path: Path, keypair: Keypair) -> None:
        """Waits for a pipe's reader. Raises AuditFailed."""
        self.path = path
        self._keypair = keypair
        self._unsigned = 0
        self._size = 0
        """Bytes that are in the file, at least: with fewer it was shortened."""
        try:
            self._descriptor = _open(path)
            try:
                self._end = self._find_end()
            except BaseException:
                os.close(self._descriptor)
                raise
        except OSError as error:
            raise AuditFailed(path, error.strerror) from error

    @property
    def is_signed(self) -> bool:
        """Whether a head has signed all lines."""
        return not self._unsigned

    def append(self, records: deque[Mapping[str, object]]) -> None:
        """Writes the records, each of which leaves ``records`` once it is in the file. Raises OSError."""
        self._follow()
        while records:
            self._begin()
            self._write(chained(self._end.position, records[0]))
            records.popleft()
            if self._unsigned >= HEAD_EVERY:
                self.sign()

    def sign(self) -> None:
        """Writes a head, unless all lines are signed, and has it on disk. Raises OSError."""
        if self._unsigned:
            self._begin()
            self._write(signed_head(self._end.position, now(), self._keypair))
            self._unsigned = 0
            if _is_regular(os.fstat(self._descriptor)):
                os.fsync(self._descriptor)

    def reopen(self) -> None:
        """Makes the file that the next lines are for, if it was moved or removed; the one before ends with a head. Raises
        OSError."""
        self._follow()
        self._begin()

    def close(self) -> None:
        """Signs what is not, and closes the file. Raises OSError."""
        try:
            self.sign()
        finally:
            os.close(self._descriptor)

    def _find_end(self) -> _End:
        status = os.fstat(self._descriptor)
        if not _is_regular(status):
            return _End(BEGINNING, begins=True)
        _lock(self._descriptor)
        self._size = status.st_size
        return _end_of(self.path)

    def _follow(self) -> None:
        """Goes on in the file that is at the path now."""
        if not self._is_elsewhere():
            status = os.fstat(self._descriptor)
            if _is_regular(status) and status.st_size < self._size:  # as `copytruncate` of logrotate does
                self._end = _End(self._end.position, begins=True, unended=_end_of(self.path).unended)
                self._size = status.st_size
            return
        with suppress(OSError):  # the disk of the one before may be full, or gone
            self.sign()
        descriptor = _open(self.path, os.O_NONBLOCK)  # a pipe without a reader: error
        try:
            os.set_blocking(descriptor, True)
            status = os.fstat(descriptor)
            unended = False
            if _is_regular(status):
                _lock(descriptor)
                unended = _end_of(self.path).unended
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, status.st_size
        self._end = _End(self._end.position, self._end.strange, unended, begins=True)

    def _is_elsewhere(self) -> bool:
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True

    def _begin(self) -> None:
        """Writes what goes before the next line: the end of a line that has none, and what the file begins with or goes on after."""
        if self._end.unended:
            self._write_bytes(TORN)
            self._end = self._end._replace(unended=False, strange=self._end.strange and self._end.strange + TORN)
        if self._end.begins or self._end.strange:
            record = {"time": now(), "event": "opened", "previous": self._end.position.hash.hex()}
            if self._end.strange:
                record["strange"] = hashlib.sha256(self._end.strange).hexdigest()
            self._write(chained(self._end.position, record))

    def _write(self, link: Link) -> None:
        self._write_bytes(link.line)
        self._end = _End(link.position)
        self._unsigned += 1

    def _write_bytes(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        finally:
            self._size += written
            if 0 < written < len(data):
                self._end = self._end._replace(strange=self._end.strange + data[:written], unended=True)


class _End(NamedTuple):
    """What a file ends with."""

    position: Position
    strange: bytes = b""
    """What stands after the last line of the chain: a torn one, after a crash or on a full disk."""
    unended: bool = False
    """The last line has no end."""
    begins: bool = False
    """There is nothing of the chain before, that is to be named."""


def now() -> str:
    """The time, as lines have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | flags, mode=0o600)


def _is_regular(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode)


def _lock(descriptor: int) -> None:
    """Two peers would tear each other's chain. Raises OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(error.errno, "another peer writes it: give each a file of its own") from error


def _end_of(path: Path) -> _End:
    """Looks for the last line of a chain; a file without one, from before there were chains, begins one. Raises OSError."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - MAX_LINE, 0))
        lines = file.read().split(b"\n")
    unended = bool(lines[-1])
    for at in reversed(range(len(lines) - 1)):
        if (entry := parse(lines[at])) is not None:
            return _End(Position(entry.seq, entry.hash), b"\n".join(lines[at + 1 :]), unended)
    return _End(BEGINNING, unended=unended, begins=True)
