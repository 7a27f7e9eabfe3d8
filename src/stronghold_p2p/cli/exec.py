"""``listen --handler exec:CMD``: a command answers each request, its body on stdin, its response on stdout."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import msgspec

from ..config import Config
from ..requests import Request
from ..requests.codec import CodecName
from .command import UsageError

__all__ = ["CommandFailed", "Exec", "parse_command"]

CHUNK = 65_536
"""Bytes at a time: what a pipe holds."""


class CommandFailed(Exception):
    """The command of an ``exec`` handler failed."""


def parse_command(command: str) -> list[str]:
    """The arguments in a command's text.

    Raises:
        UsageError: malformed, empty, or without an executable program.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the handler's command cannot be split: {error}") from error
    if not arguments:
        raise UsageError("the handler has no command: write exec:CMD")
    if shutil.which(arguments[0]) is None:
        raise UsageError(f"the handler's command cannot be run: {arguments[0]!r} is not an executable program")
    return arguments


class Exec:
    """Runs a command for each request, never more than ``processes`` at once.

    The command's answer is what it has written when it ends, or the whole of what it has started; that ends with it.
    """

    def __init__(self, arguments: list[str], *, codec: CodecName, processes: int) -> None:
        self._arguments = arguments
        self._raw = codec == "raw"
        self._limit: int = getattr(Config(), f"max_{codec}_message")
        self._free = asyncio.Semaphore(processes)

    async def __call__(self, request: Request[Any]) -> Any:
        body = request.body if self._raw else msgspec.json.encode(request.body)
        async with self._free:
            answer = await self._run(body)
        if self._raw:
            return answer
        try:
            return msgspec.json.decode(answer)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            got = f"{len(answer):,} bytes that are not ({error})" if answer else "nothing"
            raise CommandFailed(f"expected JSON on the stdout of {self._arguments[0]}, got {got}") from error

    async def _run(self, body: bytes) -> bytes:
        with _Feed(body) as feed, _Answer(self._limit) as answer:
            process = await self._start(feed.theirs, answer.theirs)
            try:
                feed.start()
                answer.start(over=lambda: _kill_group(process))
                # The process, not the end of its pipes: what it leaves behind may hold them for ever.
                status = await process.wait()
            finally:
                _kill_group(process)
                await process.wait()
            answer.read_rest()
        if answer.is_over:
            raise CommandFailed(f"{self._arguments[0]} wrote more than a response holds, {self._limit:,} bytes")
        if status:
            raise CommandFailed(f"{self._arguments[0]} ended with status {status}")
        return bytes(answer.data)

    async def _start(self, stdin: int, stdout: int) -> asyncio.subprocess.Process:
        # A process group of its own: Ctrl-C does not reach it, so that running requests can end.
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(*self._arguments, stdin=stdin, stdout=stdout, start_new_session=True)
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # a request may end while asyncio waits for what it has started
            with suppress(OSError):
                process = await starting
                _kill_group(process)
                await process.wait()
            raise


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Ends what the command has started, too, and its orphans when it has ended itself."""
    with suppress(ProcessLookupError, PermissionError):  # nobody is left; only zombies are, on macOS
        os.killpg(process.pid, signal.SIGKILL)


class _Pipe:
    """A pipe to a command, of which one end is ours and never blocks. Both are closed with the context."""

    def __init__(self, *, write: bool) -> None:
        self._loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        self._ours, self.theirs = (write_end, read_end) if write else (read_end, write_end)
        os.set_blocking(self._ours, False)
        self._open = {self._ours, self.theirs}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self._ours)
        self._close(self.theirs)

    def _close(self, end: int) -> None:
        if end in self._open:
            self._open.remove(end)
            if end == self._ours:
                self._loop.remove_reader(end)
                self._loop.remove_writer(end)
            os.close(end)


class _Feed(_Pipe):
    """A body on its way to a command's stdin, as far as that is read."""

    def __init__(self, body: bytes) -> None:
        super().__init__(write=True)
        self._rest = memoryview(body)

    def start(self) -> None:
        """The command has its end."""
        self._close(self.theirs)
        self._loop.add_writer(self._ours, self._write)

    def _write(self) -> None:
        try:
            self._rest = self._rest[os.write(self._ours, self._rest[:CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads
            self._rest = self._rest[:0]
        if not self._rest:
            self._close(self._ours)


class _Answer(_Pipe):
    """What a command has written to its stdout."""

    def __init__(self, limit: int) -> None:
        super().__init__(write=False)
        self.data = bytearray()
        self._limit = limit
        self._over: Callable[[], None] = lambda: None

    @property
    def is_over(self) -> bool:
        """Whether it is more than the limit. It is read no further then."""
        return len(self.data) > self._limit

    def start(self, over: Callable[[], None]) -> None:
        """The command has its end; ``over`` is called once the limit is passed."""
        self._over = over
        self._close(self.theirs)
        self._loop.add_reader(self._ours, self._read)

    def read_rest(self) -> None:
        """Takes what is in the pipe, and waits for nothing more."""
        while self._read():
            pass

    def _read(self) -> bool:
        """Whether there may be more."""
        if self._ours not in self._open:
            return False
        try:
            data = os.read(self._ours, CHUNK)
        except BlockingIOError:
            return False
        self.data += data
        if self.is_over:
            self._over()
        if self.is_over or not data:
            self._close(self._ours)
            return False
        return True
