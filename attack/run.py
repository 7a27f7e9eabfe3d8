"""Runs one attack: a victim, honest clients and an attacker, each a process of its own on loopback. Linux only."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any

from attack.command import Command, listening
from attack.terms import Attack, Figures, NotMeasured
from stronghold_p2p import Multiaddr
from stronghold_p2p.requests.codec import PROTOCOLS

__all__ = ["Options", "measure"]

PATIENCE = 20.0
"""Seconds for a line of a process: the clients wait for what is under way, and all three share two processors."""

SETTLING = 3.0
"""Seconds after an attack until memory must be given back."""


@dataclass(frozen=True)
class Options:
    """Of the command line."""

    seconds: float
    baseline: float
    """Seconds without an attack, before it."""
    loop: str
    """The victim's: asyncio or uvloop."""


class Process:
    """A program of this folder. It prints a line for each that it reads; the victim also one at first."""

    def __init__(self, popen: subprocess.Popen[str], name: str) -> None:
        self._popen = popen
        self._name = name

    def read(self) -> Any:
        """What its next line says."""
        stdout = self._popen.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], PATIENCE)[0] or not (line := stdout.readline()):
            raise NotMeasured(f"{self._name} says nothing")
        return json.loads(line)

    def ask(self, question: object = None) -> Any:
        """The answer; with nothing to ask, what happened since the last call."""
        assert self._popen.stdin is not None
        try:
            print(json.dumps(question), file=self._popen.stdin, flush=True)
        except BrokenPipeError:
            raise NotMeasured(f"{self._name} has ended") from None
        return self.read()

    def end(self) -> None:
        """Raises NotMeasured if it has ended by itself."""
        if self._popen.poll() is not None:
            raise NotMeasured(f"{self._name} has ended with status {self._popen.returncode}")
        self._popen.kill()
        self._popen.wait()


@contextmanager
def own_network() -> Iterator[Sequence[str]]:
    """What runs a command in a network namespace that has a loopback interface alone.

    Raises:
        NotMeasured: none can be made.
    """
    script = "ip link set lo up && echo up && exec cat"
    command = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", script)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() != "up\n":
                raise NotMeasured("the system gives no network namespace")
            yield ("nsenter", "--target", str(holder.pid), "--user", "--net", "--preserve-credentials")
        finally:
            holder.kill()


@contextmanager
def started(name: str, *arguments: str, log: IO[bytes] | None = None, within: Sequence[str] = ()) -> Iterator[Process]:
    """``within``: what runs it elsewhere."""
    command = (*within, sys.executable, "-m", f"attack.{name}", *arguments)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as popen:
        try:
            yield Process(popen, name)
        finally:
            popen.kill()


def measure(attack: Attack, options: Options) -> tuple[Figures, Figures]:
    """What the clients saw before the attack, and what it did.

    Raises:
        NotMeasured: a process failed.
    """
    codec = attack.victim.codec
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("a+b"))
        within = stack.enter_context(own_network()) if attack.victim.mdns else ()
        victim = stack.enter_context(victim_of(attack, options, log, within))
        clients = stack.enter_context(
            started(
                "clients",
                codec,
                str(attack.fresh_per_second),
                "relayed" if attack.victim.relay else "direct",
                within=within,
            )
        )
        attacker = stack.enter_context(started("attacker", attack.name, within=within))
        ipv4, tcp, websocket, *tls = victim.read()
        clients.ask(ipv4)
        time.sleep(options.baseline)
        before = Figures(**clients.ask())
        memory = victim.ask()["memory"]
        lines, size = log_size(log)
        begin = time.monotonic()

        attacker.ask([endpoint(tcp), endpoint(websocket), PROTOCOLS[codec], endpoint(ipv4), *map(endpoint, tls)])
        if attack.setup:
            time.sleep(attack.setup)
            clients.ask()
        time.sleep(options.seconds)
        figures = Figures(**clients.ask())
        harm = victim.ask()
        attacker.end()

        lines_after, size_after = log_size(log)
        figures.turn = harm["turn"]
        figures.memory = harm["memory_peak"] - memory
        figures.closed, figures.refused = harm["closed"], harm["refused"]
        figures.shown_after = harm["shown_after"]
        figures.log_lines = (lines_after - lines) / (time.monotonic() - begin)
        figures.log_bytes = size_after - size
        if attack.must.memory_after is not None:
            time.sleep(SETTLING)
            figures.memory_after = victim.ask()["memory"] - memory
    return before, figures


@contextmanager
def victim_of(attack: Attack, options: Options, log: IO[bytes], within: Sequence[str]) -> Iterator[Process | Command]:
    if attack.victim.command:
        with listening(log) as command:
            yield command
    else:
        with started("victim", json.dumps(asdict(attack.victim)), options.loop, log=log, within=within) as process:
            yield process


def endpoint(address: str) -> tuple[str, int]:
    """The socket's address."""
    (_, host), (_, port), *_ = Multiaddr.parse(address)
    assert host is not None
    assert port is not None
    return host, int(port)


def log_size(log: IO[bytes]) -> tuple[int, int]:
    """Lines and bytes."""
    written = os.pread(log.fileno(), 2**31 - 4096, 0)
    return written.count(b"\n"), len(written)
