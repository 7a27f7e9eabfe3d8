"""Network namespaces as hosts: each has its own interfaces and addresses, and runs commands.

An ordinary user may make them, inside a user namespace. They live as long as a process in them, and those end with the
test's own, whatever ends it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import pytest

from .commands import CommandProcess

__all__ = ["Host", "HostProcess", "cable", "hosts", "link", "missing_for_hosts", "missing_for_links", "require"]

WAIT: Final = 60
"""Seconds after which a process has failed; none waits for them."""

TOOLS: Final = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}
"""Commands that are run, and the packages that bring them."""

INTERFACE: Final = "net0"
"""Of each host, towards the other."""

LINK: Final = Path(__file__).with_name("link.py")


class Host:
    """A network namespace, with its loopback interface up, and two addresses once it is joined to another host."""

    def __init__(self, pid: int, number: int) -> None:
        self.pid = pid
        """Of a process in it."""
        self.ip4 = f"10.16.0.{number}"
        self.ip6 = f"fd16::{number}"

    def command(self, *command: str) -> list[str]:
        """What runs ``command`` in it, and has that end with us."""
        enter = ["nsenter", "--target", str(self.pid), "--user", "--net", "--preserve-credentials"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", "--", *command]

    def run(self, *command: str, text: str = "") -> str:
        """Runs a command that ends by itself, with ``text`` as its input; returns its output."""
        return _run(self.command(*command), text)

    def ip(self, *commands: str) -> str:
        """Runs commands of ``ip``, each as a line."""
        return self.run("ip", "-batch", "-", text="".join(f"{command}\n" for command in commands))

    @contextlib.contextmanager
    def process(self, *command: str) -> Iterator[HostProcess]:
        """A command that runs as long as the context: then its input ends, it is interrupted, and it must end."""
        with _running(_start(self.command(*command))) as process:
            yield process

    def python(self, *arguments: str) -> contextlib.AbstractContextManager[HostProcess]:
        """A Python program, by the interpreter of the tests."""
        return self.process(sys.executable, *arguments)

    def stronghold_p2p(self, *arguments: str) -> contextlib.AbstractContextManager[HostProcess]:
        """A command of the command line."""
        return _running(
            CommandProcess(*arguments, "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE, namespaces=self.pid)
        )


class HostProcess:
    """A process on a host, which prints JSON, one value a line. What it writes to stderr pytest shows."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._buffer = b""

    @property
    def _stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def line(self, wait: float = WAIT) -> Any:
        """The next line that it prints, within ``wait`` seconds."""
        end = time.monotonic() + wait
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._stdout], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{self.process.args!r} has not printed what was expected within {WAIT} s"
            data = os.read(self._stdout.fileno(), 65536)
            assert data, f"{self.process.args!r} has ended; the rest of its output: {self._buffer!r}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def event(self, name: str) -> Any:
        """The next line that tells of this event; those before it are passed over."""
        end = time.monotonic() + WAIT
        while (line := self.line(end - time.monotonic())).get("event") != name:
            pass
        return line

    def send(self, value: object) -> None:
        """Gives it a line of input."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value).encode() + b"\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def hosts(count: int = 2) -> Iterator[tuple[Host, ...]]:
    """So many hosts that nothing joins yet, in one user namespace."""
    with contextlib.ExitStack() as stack:
        found: list[Host] = []
        for number in range(1, count + 1):
            enter = "unshare --user --map-root-user --net"
            if found:
                enter = f"nsenter --target {found[0].pid} --user --preserve-credentials unshare --net"
            # Ends when its input does, so at the latest with the process that made it.
            holder = stack.enter_context(_running(_start([*enter.split(), "sh", "-c", "echo '\"ready\"' && exec cat"])))
            assert holder.line() == "ready"
            host = Host(holder.process.pid, number)
            # Nobody else has our addresses: they are used at once, not looked for on the link for a second.
            host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
            host.ip("link set lo up")
            found.append(host)
        yield tuple(found)


@contextlib.contextmanager
def cable() -> Iterator[tuple[Host, Host]]:
    """Two hosts, joined by a cable of no delay."""
    with hosts() as (one, other):
        one.ip(f"link add {INTERFACE} type veth peer name {INTERFACE} netns {other.pid}")
        _configure(one)
        _configure(other)
        yield one, other


@contextlib.contextmanager
def link(
    *, rate: float, delay: float, loss: float = 0.0, queue: int = 1_000_000
) -> Iterator[tuple[Host, Host, HostProcess]]:
    """Two hosts, joined by an emulated link, and the process that emulates it: see ``link.py``."""
    with hosts() as (one, other):
        arguments = [str(other.pid), INTERFACE, str(rate), str(delay), str(loss), str(queue)]
        with one.python(str(LINK), *arguments) as emulator:
            assert emulator.line() == "ready"
            _configure(one)
            _configure(other)
            yield one, other, emulator


def _configure(host: Host) -> None:
    host.ip(
        f"address add {host.ip4}/24 dev {INTERFACE}",
        f"address add {host.ip6}/64 dev {INTERFACE}",
        f"link set {INTERFACE} up",
        f"route add 224.0.0.0/4 dev {INTERFACE}",
    )


def require(missing: str | None) -> None:
    """Skips the test if something is ``missing``, or fails it where REQUIRE_NAMESPACES is set."""
    if missing is not None:
        (pytest.fail if os.environ.get("REQUIRE_NAMESPACES") else pytest.skip)(missing)


@functools.cache
def missing_for_hosts() -> str | None:
    """Why this machine has no namespaces for tests; None if it has."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"{tool} is missing, which {package} brings"
    try:
        with cable():
            return None
    except (AssertionError, subprocess.CalledProcessError) as error:
        return f"this system forbids network namespaces: {error}"


@functools.cache
def missing_for_links() -> str | None:
    """Why this machine has no emulated links; None if it has."""
    if (reason := missing_for_hosts()) is not None:
        return reason
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"links are emulated by /dev/net/tun, which cannot be opened: {error.strerror}"
    return None


def _run(command: Sequence[str], text: str = "") -> str:
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True, timeout=WAIT).stdout


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@contextlib.contextmanager
def _running(process: subprocess.Popen[bytes]) -> Iterator[HostProcess]:
    with process:
        try:
            yield HostProcess(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.send_signal(signal.SIGINT)
            try:
                process.wait(WAIT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
