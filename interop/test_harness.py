"""Our program of libp2p's transport test, by the protocols of both harnesses, with go, rust and itself, in a network of its
own. README.md tells how the programs of go-libp2p and rust-libp2p take part."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from .driver import WAIT

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADDRESS = "10.99.0.1"
REDIS = f"{ADDRESS}:6379"

# go's and rust's programs do not tell loopback addresses. The network lives as long as the redis in it.
NETWORK = f"""
set -e
ip link set lo up
ip link add inside type veth peer name outside
ip address add {ADDRESS}/24 dev inside
ip link set inside up
ip link set outside up
exec redis-server --bind {ADDRESS} --protected-mode no --save ""
"""

NAMES = {
    "test-plans": ("is_dialer", "transport", "security", "muxer", "ip", "redis_addr", "test_timeout_seconds"),
    "unified-testing": (
        "IS_DIALER",
        "TRANSPORT",
        "SECURE_CHANNEL",
        "MUXER",
        "LISTENER_IP",
        "REDIS_ADDR",
        "TEST_TIMEOUT_SECS",
    ),
}
"""What each harness calls the parameters."""

TEST_KEY = "a5b50d5e"
KEYS = {"test-plans": "listenerAddr", "unified-testing": f"{TEST_KEY}_listener_multiaddr"}
"""In redis: where the listener's address is."""

REPORTS = {
    "test-plans": r'\{"handshakePlusOneRTTMillis": ?([\d.]+), ?"pingRTTMilllis": ?([\d.]+)\}\n',
    "unified-testing": r"(?:#.*\n)?latency:\n +handshake_plus_one_rtt: ([\d.]+)\n +ping_rtt: ([\d.]+)\n +unit: ms\n",
}
"""What a dialer prints for each; go's adds a comment, and spaces."""

OURS = "stronghold-p2p"


@pytest_asyncio.fixture(loop_scope="session")
async def network() -> AsyncIterator[Process]:
    """Redis, in a network of its own with an address."""
    for tool, package in {"unshare": "util-linux", "ip": "iproute2", "redis-server": "redis-server"}.items():
        assert shutil.which(tool), f"{tool} is missing (Debian: apt-get install {package})"
    command = ("unshare", "--map-root-user", "--net", "sh", "-c", NETWORK)
    redis = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE)
    assert redis.stdout is not None
    try:
        async with asyncio.timeout(WAIT):
            while b"Ready to accept connections" not in (line := await redis.stdout.readline()):
                assert line, "redis did not start"
        yield redis
    finally:
        if redis.returncode is None:
            redis.terminate()
        await redis.wait()


@contextlib.asynccontextmanager
async def program(
    network: Process, who: str, harness: str, is_dialer: bool, transport: str, seconds: int = 60
) -> AsyncIterator[Process]:
    """A program of a harness, for as long as the context."""
    here = Path(__file__).parent
    if who == OURS:
        command = [sys.executable, str(here / "harness.py")]
    elif real := os.environ.get(f"{harness}_{who}".replace("-", "_").upper()):
        command = [real]
    else:
        command = [sys.executable, "-m", "interop.harness_peer", who]
    values = (str(is_dialer).lower(), transport, "noise", "yamux", "0.0.0.0", REDIS, str(seconds))
    environment = {**os.environ, **dict(zip(NAMES[harness], values, strict=True))}
    if harness == "unified-testing":
        environment["TEST_KEY"] = TEST_KEY
    process = await asyncio.create_subprocess_exec(
        *inside(network), *command, stdin=DEVNULL, stdout=PIPE, env=environment, cwd=here.parent
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def inside(network: Process) -> tuple[str, ...]:
    """The beginning of a command line that runs in this network."""
    return ("nsenter", "--target", str(network.pid), "--user", "--net", "--preserve-credentials", "--")


async def redis(network: Process, *command: str) -> str:
    """What redis prints to a command."""
    client = (*inside(network), "redis-cli", "-h", ADDRESS, *command)
    status, printed = await ended(await asyncio.create_subprocess_exec(*client, stdout=PIPE))
    assert status == 0
    return printed


async def ended(process: Process) -> tuple[int, str]:
    """The status and the output of a program that ends by itself."""
    async with asyncio.timeout(WAIT):
        printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


@pytest.mark.parametrize("harness", NAMES)
@pytest.mark.parametrize("transport", ["tcp", "ws"])
@pytest.mark.parametrize(
    ("dialer", "listener"), [(OURS, "go"), ("go", OURS), (OURS, "rust"), ("rust", OURS), (OURS, OURS)]
)
async def test_transport(network: Process, dialer: str, listener: str, transport: str, harness: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        listening = await stack.enter_async_context(program(network, listener, harness, False, transport))
        if dialer != OURS:
            # rust's gives a listener half a second to come, which is the default of its client of redis.
            await redis(network, "BLMOVE", KEYS[harness], KEYS[harness], "LEFT", "LEFT", "60")
        dialing = await stack.enter_async_context(program(network, dialer, harness, True, transport))
        status, printed = await ended(dialing)
        assert status == 0
        report = re.fullmatch(REPORTS[harness], printed)
        assert report, printed
        handshake_and_ping, ping = map(float, report.groups())
        assert 0 < ping < handshake_and_ping
        assert listening.returncode is None


async def test_the_address_is_not_loopback(network: Process) -> None:
    async with program(network, OURS, "test-plans", False, "ws"):
        printed = await redis(network, "BLPOP", "listenerAddr", "60")
        assert re.fullmatch(rf"listenerAddr\n/ip4/{ADDRESS}/tcp/\d+/ws/p2p/\w+\n", printed)


@pytest.mark.parametrize("harness", NAMES)
async def test_nobody_else_comes(network: Process, harness: str) -> None:
    async with program(network, OURS, harness, True, "tcp", seconds=1) as dialing:
        assert await ended(dialing) == (1, "")


async def test_a_transport_that_we_do_not_have(network: Process) -> None:
    async with program(network, OURS, "unified-testing", True, "quic-v1") as dialing:
        assert await ended(dialing) == (1, "")
