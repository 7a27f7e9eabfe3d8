"""stdout and stderr that are slow, stopped, broken or shared."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import TextIO

import pytest
from support.waiting import settled, until

from stronghold_p2p.cli import writer as writer_module
from stronghold_p2p.cli.writer import MAX_WAITING, OutputFailed, Writer


class Pipe:
    """Stands behind stdout."""

    def __init__(self, reads: int, stream: TextIO) -> None:
        self.reads = reads
        self.stream = stream

    def read(self, size: int) -> bytes:
        """So many bytes, and then as many as come until the writer is closed if there are more."""
        received = b""
        while len(received) < size and (data := os.read(self.reads, size - len(received))):
            received += data
        return received

    def leave(self) -> None:
        os.close(self.reads)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    reads, writes = os.pipe()
    with open(writes, "w") as stream:
        monkeypatch.setattr(Writer, "stream", stream)  # pytest sets that of sys for itself
        yield Pipe(reads, stream)
    with contextlib.suppress(OSError):
        os.close(reads)


@pytest.fixture
def stdout() -> Writer:
    return Writer("stdout", essential=True)


LONG = bytes(1_000_000)
"""More than a pipe holds."""


async def test_in_the_background_a_reader_is_not_waited_for(pipe: Pipe, stdout: Writer) -> None:
    async with stdout.in_background():
        for data in (b"first", LONG, b"last"):
            stdout.write(data)
        assert await asyncio.to_thread(pipe.read, 5 + len(LONG) + 4) == b"first" + LONG + b"last"


async def test_the_end_waits_for_the_reader(pipe: Pipe, stdout: Writer) -> None:
    async def write() -> None:
        async with stdout.in_background():
            stdout.write(LONG)

    writing = asyncio.create_task(write())
    await asyncio.to_thread(pipe.read, 1)
    assert not writing.done()
    await asyncio.to_thread(pipe.read, len(LONG) - 1)
    await writing


async def test_an_error_is_not_raised_before_what_was_printed_has_left(pipe: Pipe, stdout: Writer) -> None:
    async def fail() -> None:
        async with stdout.in_background():
            stdout.write(b"before")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert pipe.read(6) == b"before"


async def test_who_is_cancelled_does_not_wait_for_ever(
    pipe: Pipe, stdout: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "LAST_WORDS", 0.01)
    inside = asyncio.Event()

    async def write() -> None:
        async with stdout.in_background():
            stdout.write(LONG)
            inside.set()
            await asyncio.get_running_loop().create_future()

    writing = asyncio.create_task(write())
    await inside.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    pipe.leave()  # and the thread ends


@pytest.mark.parametrize("waits", [True, False])
async def test_a_failure_ends_the_task(pipe: Pipe, stdout: Writer, waits: bool) -> None:
    """And nothing that follows."""

    async def write() -> None:
        async with stdout.in_background():
            stdout.write(b"lost")
            stdout.write(b"lost, too")
            if waits:
                await asyncio.get_running_loop().create_future()

    pipe.leave()
    with pytest.raises(OutputFailed, match="cannot write to stdout: Broken pipe"):
        await write()
    await settled()


async def test_whoever_reads_may_leave(pipe: Pipe, stdout: Writer, caplog: pytest.LogCaptureFixture) -> None:
    async with stdout.in_background():
        stdout.write(b"1")
        await stdout.drained()
        stdout.release()
        pipe.leave()
        stdout.write(b"2")
        await stdout.drained()
        stdout.write(b"3")
        await settled()
        assert stdout.is_stalled
        assert [record.getMessage() for record in caplog.records] == ["cannot write to stdout any more: Broken pipe"]
    with pytest.raises(OutputFailed):
        stdout.write(b"4")


async def test_whoever_does_not_read_stalls_it(pipe: Pipe, stdout: Writer) -> None:
    async with stdout.in_background():
        stdout.write(bytes(MAX_WAITING + 1))
        stdout.write(b"1")
        assert stdout.is_stalled
        await asyncio.to_thread(pipe.read, MAX_WAITING + 2)
        await until(lambda: not stdout.is_stalled)


async def test_it_drains(pipe: Pipe, stdout: Writer) -> None:
    await stdout.drained()
    async with stdout.in_background():
        stdout.write(b"shown")
        await stdout.drained()
        assert pipe.read(5) == b"shown"


async def test_a_log_may_fail(pipe: Pipe) -> None:
    pipe.leave()
    log = Writer("stdout", essential=False)
    log.write(b"lost")
    async with log.in_background():
        log.write(b"lost")


def test_without_a_loop_a_failure_is_told_at_once(pipe: Pipe, stdout: Writer) -> None:
    pipe.leave()
    with pytest.raises(OutputFailed, match="Broken pipe"):
        stdout.write(b"lost")


async def test_a_stream_that_somebody_has_made_non_blocking(pipe: Pipe, stdout: Writer) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    writing = asyncio.create_task(asyncio.to_thread(stdout.write, LONG))
    assert await asyncio.to_thread(pipe.read, len(LONG)) == LONG
    await writing


def test_what_was_printed_otherwise_comes_first(pipe: Pipe, stdout: Writer) -> None:
    pipe.stream.write("first ")
    stdout.write(b"last")
    assert pipe.read(10) == b"first last"
