"""The processes of a scenario, on loopback, with what they write to stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from typing import Self

from attack.run import Process
from soak.listener import Terms

__all__ = ["Processes"]


class Processes:
    """All that a scenario starts; they end with it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed with the stack
        self._stack.callback(self._log.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def listener(self, terms: Terms) -> tuple[Process, list[str]]:
        """The process, and the addresses at which its peer is asked."""
        process = self._start("listener", json.dumps(asdict(terms)))
        return process, process.read()

    def askers(self) -> Process:
        return self._start("askers")

    def logged(self) -> list[str]:
        """The lines of stderr so far: of the library, of asyncio, and warnings of the interpreter."""
        return os.pread(self._log.fileno(), 2**31 - 4096, 0).decode(errors="replace").splitlines()

    def _start(self, name: str, *arguments: str) -> Process:
        popen = self._stack.enter_context(
            subprocess.Popen(
                (sys.executable, "-W", "always", "-m", f"soak.{name}", *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
        )
        self._stack.callback(popen.kill)
        return Process(popen, name)
