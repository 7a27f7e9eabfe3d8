"""The command line's own commands as processes, for those commands that need another peer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from typing import Any

import msgspec

__all__ = ["ProcessFailed", "listening", "run"]


class ProcessFailed(Exception):
    """A process ended without doing what it was started for."""


@contextlib.asynccontextmanager
async def listening(*options: str) -> AsyncIterator[str]:
    """Run ``listen`` for as long as the context, which gets the address that it listens on.

    Raises:
        ProcessFailed: it does not listen.
    """
    process = await _start("listen", *options)
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        event = msgspec.json.decode(line) if line else {}
        if "address" not in event:
            raise ProcessFailed(f"listen: {event.get('message', 'ended without a message')}")
        yield event["address"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await process.wait()


async def run(*arguments: str) -> tuple[int, Any]:
    """Run a command to its end; its exit status, and the JSON that it printed.

    Raises:
        ProcessFailed: it printed none.
    """
    process = await _start(*arguments)
    try:
        printed, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        status = await process.wait()
    if not printed:
        raise ProcessFailed(f"{arguments[0]}: ended with status {status} without a word")
    return status, msgspec.json.decode(printed)


async def _start(*arguments: str) -> Process:
    # Out of the reach of the terminal: Ctrl-C is ours to hand on, once.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stronghold_p2p", *arguments, "--json"),
        stdin=DEVNULL,
        stdout=PIPE,
        start_new_session=True,
    )
