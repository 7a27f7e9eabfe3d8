"""What holds for every test that runs on an event loop: nothing is left behind, and the loop has nothing to complain of."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from support.compiled import IGNORED_WARNINGS
from support.examples import register_profiles
from support.loop import Loop

from stronghold_p2p import StrongholdP2p
from stronghold_p2p.swarm.swarm import Swarm
from stronghold_p2p.transport.deadlines import Deadlines
from stronghold_p2p.transport.upgrade import PipeUpgrade

MAY_BE_RANDOM = re.compile(r"12D3KooW\w{44}|0x[0-9a-f]{8,}")
"""Peer ids and addresses in memory."""

PATIENCE = 30
"""Seconds after which a test that waits for what does not come is ended."""

MakePeer = Callable[..., Awaitable[StrongholdP2p[Any, Any]]]


register_profiles()  # before hypothesis loads the one that is asked for


def pytest_configure(config: pytest.Config) -> None:
    for warning in IGNORED_WARNINGS:
        action, message, category = warning.split(":")
        config.addinivalue_line("filterwarnings", f"{action}:{re.escape(message)}:{category}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses names that are others in each process: the workers of a parallel run must agree on them."""
    found = [(item.nodeid, text) for item in items for text in MAY_BE_RANDOM.findall(item.name)]
    written = "".join(
        path.read_text() for path in Path(__file__).parent.rglob("*.*") if path.suffix in {".py", ".json"}
    )
    random = [nodeid for nodeid, text in found if text not in written]
    if random:
        raise pytest.UsageError(f"a parameter's id has what is random in it, such as a key's peer id: {random}")


def pytest_collection_finish() -> None:
    freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    torn_down = yield
    if nextitem is None or nextitem.path != item.path:
        freeze()
    return torn_down


def freeze() -> None:
    """What was imported and collected, and what pytest keeps of tests that have run, need no look at each collection
    below: it took half of all time."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"tests": Loop}


@pytest.fixture(autouse=True)
def tidiness(request: pytest.FixtureRequest) -> None:
    """Applies ``nothing_is_left`` to coroutines; other tests need no loop."""
    if isinstance(request.node, pytest.Function) and inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("nothing_is_left")


@pytest.fixture
async def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """No call of the loop's exception handler, no task, and in a closed peer no connection, deadline or byte counted."""
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(repr(context)))
    close_swarm, close_deadlines = Swarm.close, Deadlines.close

    async def close_and_look(swarm: Swarm) -> None:
        await close_swarm(swarm)
        left = {
            "connections": swarm.connections,
            "dials": swarm._dialer.dials,
            "upgrades": [upgrade for upgrade, _ in swarm._upgrading.values() if not upgrade.finished.done()],
            "bytes": swarm.memory.used,
        }
        complaints.extend(f"{name} left: {what!r}" for name, what in left.items() if what)

    def look_and_close(deadlines: Deadlines) -> None:
        items = (item for items in deadlines._ticks.values() for item in items)
        complaints.extend(
            f"deadline left: {item!r}"
            for item in items
            if not (isinstance(item, PipeUpgrade) and item.finished.done())  # about to be removed
        )
        close_deadlines(deadlines)

    def interrupt() -> None:
        if time.monotonic() < until:  # the test's own clock says otherwise
            patience.append(loop.call_later(PATIENCE, interrupt))
            return
        complaints.append(f"the test did not end within {PATIENCE} s")
        for task in asyncio.all_tasks():
            task.cancel()

    monkeypatch.setattr(Swarm, "close", close_and_look)
    monkeypatch.setattr(Deadlines, "close", look_and_close)
    until = time.monotonic() + PATIENCE / 2
    patience = [loop.call_later(PATIENCE, interrupt)]
    yield
    patience[-1].cancel()
    for _ in range(3):
        await asyncio.sleep(0)  # what has ended may still have callbacks to run
    gc.collect()  # tells of exceptions that nobody has retrieved
    if (error := sys.exc_info()[1]) is not None:
        complaints.append(f"still counts as being handled: {error!r}")  # compiled code has done that
    complaints.extend(f"task left: {task!r}" for task in asyncio.all_tasks() if task is not asyncio.current_task())
    assert not complaints, "\n".join(complaints)


@pytest.fixture
async def make_peer() -> AsyncIterator[MakePeer]:
    """Starts peers, which are closed after the test."""
    peers: list[StrongholdP2p[Any, Any]] = []

    async def make(**arguments: Any) -> StrongholdP2p[Any, Any]:
        peer: StrongholdP2p[Any, Any] = StrongholdP2p(**arguments)
        await peer.start()
        peers.append(peer)
        return peer

    yield make
    await asyncio.gather(*(peer.close() for peer in peers))
