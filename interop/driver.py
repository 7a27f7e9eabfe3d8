"""Runs the peers in other languages as processes. README.md has their command line and what they print."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import build

__all__ = ["LANGUAGES", "Line", "RemoteListener", "dial", "listening"]

LANGUAGES = tuple(build.BUILDERS)

WAIT = 60.0
"""Seconds after which a process has failed; none waits for them."""

TRUST = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
"""By which Go and OpenSSL, and Node, are told of authorities."""

Line = dict[str, Any]
"""One object that a process has printed."""

command_line = functools.cache(build.build)


class RemoteListener:
    """A process that listens at :attr:`address`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.address = ""

    async def event(self, name: str) -> Line:
        """The next line that it prints, which must tell of ``name``."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT):
            printed = await self._process.stdout.readline()
        assert printed, f"the process ended instead of telling of {name!r}"
        line: Line = json.loads(printed)
        assert line.get("event") == name, line
        return line

    async def stop(self) -> None:
        """Has it close in order; returns when it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(WAIT):
            await self._process.wait()


@contextlib.asynccontextmanager
async def listening(language: str, *options: str) -> AsyncIterator[RemoteListener]:
    """A process that listens for as long as the context."""
    async with _process(language, "listen", *options) as process:
        listener = RemoteListener(process)
        listener.address = (await listener.event("listening"))["address"]
        yield listener
        await listener.stop()


async def dial(
    language: str, address: object, *command: object, body: bytes = b"", trusting: Path | None = None
) -> list[Line]:
    """Has a process dial ``address``; returns all that it prints. ``body`` is its standard input; ``trusting`` is a file
    with the certificate of an authority."""
    trust = {name: str(trusting) for name in TRUST} if trusting else {}
    async with _process(language, "dial", address, *command, environment=trust) as process:
        async with asyncio.timeout(WAIT):
            printed, _ = await process.communicate(body)
        lines: list[Line] = [json.loads(line) for line in printed.splitlines()]
        assert process.returncode == any("error" in line for line in lines), (process.returncode, lines)
        return lines


@contextlib.asynccontextmanager
async def _process(
    language: str, *arguments: object, environment: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Process]:
    # What it writes to its standard error, which is ours, pytest shows with the test that failed.
    process = await asyncio.create_subprocess_exec(
        *command_line(language), *map(str, arguments), stdin=PIPE, stdout=PIPE, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
