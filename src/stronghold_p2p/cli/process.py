"""The command line's own commands as processes, for those commands that need another peer."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Command", "ProcessFailed", "listening", "run", "running", "this_program"]


class ProcessFailed(Exception):
    """A process ended without doing what it was started for."""


class Command:
    """A command that runs, and prints events."""

    def __init__(self, name: str, printed: asyncio.StreamReader) -> None:
        self._name = name
        self._printed = printed

    async def event(self, name: str) -> Any:
        """The next event of that name; others before it are passed over.

        Raises:
            ProcessFailed: the command has failed, or ended.
        """
        async for line in self._printed:
            event = msgspec.json.decode(line)
            if "error" in event and "event" not in event:
                raise ProcessFailed(f"{self._name}: {event['message']}")
            if event.get("event") == name:
                return event
        raise ProcessFailed(f"{self._name}: ended without a message")


@contextlib.asynccontextmanager
async def running(*arguments: str, before: Sequence[str] = ()) -> AsyncIterator[Command]:
    """Run a command for as long as the context, and no longer than this process, however that ends. ``before`` goes before it."""
    process = await _start(*arguments, "--until-stdin-ends", before=before, stdin=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Command(arguments[0], process.stdout)
    finally:
        process.stdin.close()
        await process.wait()


@contextlib.asynccontextmanager
async def listening(*options: str, before: Sequence[str] = ()) -> AsyncIterator[str]:
    """Run ``listen`` for as long as the context, which gets the address that it listens on. ``before`` goes before the
    command.

    Raises:
        ProcessFailed: it does not listen.
    """
    async with running("listen", *options, before=before) as command:
        yield (await command.event("listening"))["address"]


async def run(*arguments: str, before: Sequence[str] = ()) -> tuple[int, Any]:
    """Run a command to its end; its exit status, and the JSON that it printed. ``before`` goes before it.

    Raises:
        ProcessFailed: it printed none.
    """
    process = await _start(*arguments, before=before, stdin=DEVNULL)
    try:
        printed, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        status = await process.wait()
    if not printed:
        raise ProcessFailed(f"{arguments[0]}: ended with status {status} without a word")
    return status, msgspec.json.decode(printed)


async def _start(*arguments: str, before: Sequence[str], stdin: int) -> Process:
    # Out of the reach of the terminal: Ctrl-C is ours to hand on, once.
    return await asyncio.create_subprocess_exec(
        *(*before, *this_program(), *arguments, "--json"),
        stdin=stdin,
        stdout=PIPE,
        start_new_session=True,
    )


def this_program() -> list[str]:
    """What runs this program anew. With -m alone, Python looks for each module first where it is started, which may be anybody's
    folder; the program itself may lie there, too, and then it must."""
    own = Path(__file__).resolve().parents[2]
    return [sys.executable, *([] if Path.cwd() == own else ["-P"]), "-m", "stronghold_p2p"]
