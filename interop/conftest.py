"""One event loop for all tests, so that processes that take seconds to start can serve many of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest
import pytest_asyncio

from stronghold_p2p import Event, FirewallRules, StrongholdP2p

from .driver import LANGUAGES, WAIT, RemoteListener, listening

REQUEST_PROTOCOL = "/stronghold-p2p/1.0.0"

AGENTS = {"go": "go-libp2p", "rust": "rust-libp2p/", "js": "js-libp2p/", "py": "py-libp2p/"}
"""How the agent versions that they tell begin."""

Shared = Callable[..., Awaitable[RemoteListener]]

E = TypeVar("E")


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """Each of the other languages."""
    language: str = request.param
    return language


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[Shared]:
    """Starts a listener in a language with options, unless one runs; for tests that do not look at what it prints."""
    listeners: dict[tuple[str, ...], RemoteListener] = {}
    async with contextlib.AsyncExitStack() as stack:

        async def start(*arguments: str) -> RemoteListener:
            if arguments not in listeners:
                listeners[arguments] = await stack.enter_async_context(listening(*arguments))
            return listeners[arguments]

        yield start


@pytest_asyncio.fixture(loop_scope="session")
async def echo() -> AsyncIterator[StrongholdP2p]:
    """A peer of ours that listens and answers each request by its body."""
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        peer.on_request(lambda request: request.body)
        await peer.listen()
        yield peer


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def nothing_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Fails a test that leaves a task, or has the event loop complain."""
    before = asyncio.all_tasks()
    yield
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not [record for record in caplog.get_records("call") if record.name == "asyncio"]


async def first(events: AsyncIterator[Event], *kinds: type[E]) -> E:
    """The first event of one of these kinds; those before it are dropped."""
    async with asyncio.timeout(WAIT):
        async for event in events:
            if isinstance(event, kinds):
                return event
    raise AssertionError(f"the events ended before {kinds}")
