"""The systems that are compared: how each is built, started and asked. See bench/README.md for their command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.cases import COMPILED, OURS, OVER_WEBSOCKET
from bench.usage import Machine, Usage, usage_of
from interop import build

__all__ = ["COMPILED_PYTHON", "PATIENCE", "PEERS", "SYSTEMS", "Listener", "Measured", "System", "Took"]

PEERS = Path(__file__).resolve().parent / "peers"
PATIENCE = 300
"""Seconds that one command may take, building apart."""
COMPILED_PYTHON = Path(f"{sys.prefix}-compiled") / "bin" / "python"
"""Of the environment where the library's hot path is compiled."""


@dataclass(frozen=True)
class Listener:
    """A process that serves."""

    address: str
    process: int


@dataclass(frozen=True)
class Took:
    """What a measurement took, from the first line of the dialer's output to the last."""

    seconds: float
    dialer: Usage
    listener: Usage
    machine: Machine

    @property
    def stolen(self) -> float:
        """The share of the processors that the hypervisor gave to others."""
        return self.machine.stolen / self.machine.total

    @property
    def others(self) -> float:
        """The share of the processors that other processes took."""
        own = self.dialer.processor_seconds + self.listener.processor_seconds
        return (
            max(0.0, self.machine.busy - own) / self.machine.total
        )  # what is rounded to ticks may be less than nothing


@dataclass(frozen=True)
class Moment:
    """All that has been counted until then."""

    time: float
    dialer: Usage
    listener: Usage
    machine: Machine

    def since(self, begin: Moment) -> Took:
        return Took(
            self.time - begin.time,
            self.dialer - begin.dialer,
            self.listener - begin.listener,
            self.machine - begin.machine,
        )


@dataclass(frozen=True)
class Measured:
    figures: Mapping[str, Any]
    """What the dialer's program printed last."""
    took: Took | None
    """None: it printed nothing before."""


@dataclass(frozen=True)
class System:
    """One system. ``language`` says how its program is built: see :meth:`command`."""

    name: str
    folder: str
    language: str
    does: tuple[str, ...] = ("measure", "connect")
    """What its program does beside "serve" that is measured: "measure", "connect", "many", "perf", "relay"."""
    every_round: bool = True
    """Else it is measured in the first one alone: it is too slow to decide a goal, and takes most of the time."""

    @cache  # noqa: B019 - there are eleven of them
    def command(self) -> tuple[str, ...]:
        """The command line of its program, which is built first unless the cache has it.

        Raises:
            BuildError: a toolchain is missing, or the build failed.
        """
        if self.language == "this Python":
            return (sys.executable, "-m", self.folder)
        if self.language == "compiled":
            if not COMPILED_PYTHON.exists():
                raise build.BuildError(f"{COMPILED_PYTHON} is missing: make bench makes it")
            return (str(COMPILED_PYTHON), "-m", self.folder)
        source = PEERS / self.folder
        if self.language != "py":
            return tuple(build.BUILDERS[self.language](source))

        def install_to(folder: Path) -> None:
            build.install_packages(folder, ["--requirement", source / "requirements.txt"])

        inputs = [sys.version, (source / "requirements.txt").read_text()]
        return (str(build.cached(self.folder, inputs, install_to) / "bin" / "python"), "-m", self.folder)

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Runs its program to the end; returns the object in the last line of its output."""
        return last_line((*self.command(), *arguments))

    def measure(self, listener: Listener, mode: str, *options: str) -> Measured:
        """Runs its program against a listener to the end."""
        command = (*self.command(), mode, listener.address, *options)
        return watched(command, listener.process)

    def scale(self, *options: str) -> dict[str, dict[str, Any]]:
        """The rows of scale.py by their names, for one that is ours."""
        return last_line((self.command()[0], "-m", "bench.scale", "--json", *options))

    @contextmanager
    def serving(self, mode: str = "serve", *options: str) -> Iterator[Listener]:
        """Runs its listener, a process of its own."""
        pipe = subprocess.PIPE
        with subprocess.Popen((*self.command(), mode, *options), env=ENVIRONMENT, stdin=pipe, stdout=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield Listener(json.loads(process.stdout.readline())["address"], process.pid)
            finally:
                process.stdin.close()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PEERS)}


def last_line(command: tuple[str, ...]) -> dict[str, Any]:
    """Runs a command to its end; returns the object in the last line of its output."""
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def watched(command: tuple[str, ...], listener: int) -> Measured:
    """Runs a command to its end; the object in the last line of its output, and what it and the listener took since the
    first line."""
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        try:
            moments = [
                (line, Moment(time.perf_counter(), usage_of(process.pid), usage_of(listener), Machine.now()))
                for line in process.stdout
            ]
        finally:
            patience.cancel()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    if not moments:
        raise ValueError(f"{command[0]} printed nothing")
    (_, begin), (line, end) = moments[0], moments[-1]
    return Measured(json.loads(line), None if begin is end else end.since(begin))


SYSTEMS = (
    System(OURS, "stronghold", "this Python", ("measure", "connect", "many", "perf", "relay")),
    System(COMPILED, "stronghold", "compiled", ("measure", "connect", "many", "perf", "relay")),
    System(OVER_WEBSOCKET[OURS], "stronghold_ws", "this Python", ("measure",)),
    System(OVER_WEBSOCKET[COMPILED], "stronghold_ws", "compiled", ("measure",)),
    System("ZeroMQ CURVE", "zmq_curve", "py", ("measure", "connect", "many")),
    System("gRPC aio TLS", "grpc_aio", "py"),
    System("go-libp2p", "go", "go", ("measure", "connect", "many", "perf", "relay")),
    System("rust-libp2p", "rust", "rust", ("measure", "connect", "many", "relay")),
    System("js-libp2p", "js", "js", every_round=False),
    System("py-libp2p", "py_libp2p", "py", every_round=False),
    System("iroh", "iroh_quic", "py", every_round=False),
)
"""Ours first."""
