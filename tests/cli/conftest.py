"""Commands in this process, and peers that listen in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from stronghold_p2p.cli.app import run

WAIT = 30
"""Seconds after which a process has failed; none waits for them."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What it printed, each line as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def line(self) -> Any:
        """The only line that it printed."""
        (line,) = self.lines
        return line


class Cli:
    """Runs commands in this process, as ``main`` does."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ran:
        with _signals_kept():
            status = run(arguments)
        out, err = self._capsys.readouterr()
        return Ran(status, out, err)

    def json(self, *arguments: str) -> Ran:
        return self(*arguments, "--json")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Commands own their process, and so its signals; here they do not."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("STRONGHOLD_P2P_PASSPHRASE", raising=False)
    return Cli(capsys)


@contextlib.contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which is interrupted at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "stronghold_p2p", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **{"stdin": subprocess.DEVNULL, **options},
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGINT)
            try:
                started.wait(WAIT)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                raise


@contextlib.contextmanager
def listening(*arguments: str) -> Iterator[str]:
    """``listen`` in a process of its own; the address it can be dialled at."""
    with process("listen", *arguments, "--json") as listener:
        assert listener.stdout is not None
        event = json.loads(listener.stdout.readline())
        assert event["event"] == "listening"
        yield event["address"]


@pytest.fixture(scope="session")
def echo() -> Iterator[str]:
    """The address of a peer that echoes."""
    with listening("--allow-all", "--handler", "echo") as address:
        yield address
