"""The victim as people run it: ``stronghold-p2p listen --ask``, in a terminal whose output Ctrl-S has stopped."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from attack.clients import FRESH, keypair
from attack.terms import NotMeasured

__all__ = ["Command", "listening"]

ADDRESSES = ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/ip6/::1/tcp/0/ws")
CTRL_S = b"\x13"

STARTING = 20.0
"""Seconds until it listens."""


class Command:
    """As a victim that measures itself, but it does not."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal

    def read(self) -> list[str]:
        """Its addresses. What it prints from then on, nobody reads, and the terminal is stopped."""
        printed = b""
        deadline = time.monotonic() + STARTING
        while len(addresses := re.findall(r"listening on +(\S+)\r\n", printed.decode())) < len(ADDRESSES):
            if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise NotMeasured("stronghold-p2p listen does not listen")
            printed += os.read(self._terminal, 4096)
        os.write(self._terminal, CTRL_S)
        return addresses

    def ask(self) -> dict[str, Any]:
        return {"turn": 0.0, "memory": 0.0, "memory_peak": 0.0, "closed": {}, "refused": {}, "shown_after": 0}


@contextmanager
def listening(log: IO[bytes]) -> Iterator[Command]:
    """``log`` gets its stderr. The policy allows the honest ones."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as policy:
        for number in range(1 + FRESH):
            policy.write(f'[peers.honest-{number}]\nid = "{keypair(number).peer_id}"\ninbound = "allow"\n')
        policy.flush()
        terminal, its_end = os.openpty()
        command = (sys.executable, "-m", "stronghold_p2p", "listen", "--ask", "--policy", policy.name, *ADDRESSES)
        with subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=log) as process:
            try:
                yield Command(terminal)
            finally:
                process.kill()
                os.close(terminal)
                os.close(its_end)
