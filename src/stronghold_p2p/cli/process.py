"""The command line's own commands as processes, for those commands that need another peer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

__all__ = ["ProcessFailed", "listening", "network_of_its_own", "run"]

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net", "--")
LOOPBACK_UP = ("sh", "-c", "ip link set lo up && echo up && exec cat")


class ProcessFailed(Exception):
    """A process ended without doing what it was started for."""


@contextlib.asynccontextmanager
async def network_of_its_own() -> AsyncIterator[Sequence[str]]:
    """What goes before a command that is to run in a network with a loopback interface alone, for as long as the context
    (Linux). Nothing, where the system has no such networks for us."""
    try:
        holder = await asyncio.create_subprocess_exec(
            *NAMESPACE, *LOOPBACK_UP, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
        )
    except OSError:
        yield ()
        return
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        is_up = await holder.stdout.readline()
        entrance = ("nsenter", "--preserve-credentials", "--user", "--net", "--target", str(holder.pid), "--")
        yield entrance if is_up else ()
    finally:
        holder.stdin.close()
        await holder.wait()


@contextlib.asynccontextmanager
async def listening(*options: str, before: Sequence[str] = ()) -> AsyncIterator[str]:
    """Run ``listen`` for as long as the context, which gets the address that it listens on. ``before`` goes before the
    command.

    Raises:
        ProcessFailed: it does not listen.
    """
    process = await _start("listen", *options, before=before)
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


async def run(*arguments: str, before: Sequence[str] = ()) -> tuple[int, Any]:
    """Run a command to its end; its exit status, and the JSON that it printed. ``before`` goes before it.

    Raises:
        ProcessFailed: it printed none.
    """
    process = await _start(*arguments, before=before)
    try:
        printed, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        status = await process.wait()
    if not printed:
        raise ProcessFailed(f"{arguments[0]}: ended with status {status} without a word")
    return status, msgspec.json.decode(printed)


async def _start(*arguments: str, before: Sequence[str]) -> Process:
    # Out of the reach of the terminal: Ctrl-C is ours to hand on, once.
    return await asyncio.create_subprocess_exec(
        *(*before, sys.executable, "-m", "stronghold_p2p", *arguments, "--json"),
        stdin=DEVNULL,
        stdout=PIPE,
        start_new_session=True,
    )
