"""Whatever a user's code raises ends what it was called for, and nothing else; only KeyboardInterrupt ends the program."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from conftest import PATIENCE, MakePeer
from support.waiting import begun, next_event, until

from stronghold_p2p import (
    DecodeError,
    FirewallRules,
    NoResponse,
    NotPermitted,
    Request,
    RequestFailed,
    Rule,
    Stream,
    StreamReset,
    StrongholdError,
    StrongholdP2p,
)

PROTOCOL = "/own/1.0.0"


class Own(BaseException):
    """Of a user's: no Exception, as those of test runners are none."""


ERRORS = [SystemExit(3), GeneratorExit(), asyncio.CancelledError(), Own(), LookupError("a")]
every_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


def raising(error: BaseException) -> Callable[..., Any]:
    def raise_(*_: object) -> Any:
        raise error

    return raise_


def raising_later(error: BaseException) -> Callable[..., Any]:
    async def raise_(*_: object) -> Any:
        raise error

    return raise_


def raising_later_still(error: BaseException) -> Callable[..., Any]:
    async def raise_(*_: object) -> Any:
        await asyncio.sleep(0)
        raise error

    return raise_


def message(error: BaseException) -> type[msgspec.Struct]:
    class Message(msgspec.Struct):
        bad: bool

        def __post_init__(self) -> None:
            if self.bad:
                raise error

    return Message


PLACES: dict[str, Callable[[BaseException], dict[str, Any]]] = {
    "handler": lambda error: {"on_request": raising(error)},
    "async handler": lambda error: {"on_request": raising_later(error)},
    "async handler that waits": lambda error: {"on_request": raising_later_still(error)},
    "handler's answer": lambda error: {"on_request": lambda request: Lazy(error)},
    "message": lambda error: {"request_type": message(error)},
    "predicate": lambda error: {"firewall": FirewallRules(inbound=Rule.restricted(raising(error)))},
    "view": lambda error: {"firewall": FirewallRules.ask_all(), "firewall_view": raising(error)},
    "firewall handler": lambda error: {
        "firewall": FirewallRules.ask_all(),
        "on_firewall_request": raising(error),
    },
    "async firewall handler": lambda error: {
        "firewall": FirewallRules.ask_all(),
        "on_firewall_request": raising_later_still(error),
    },
}
every_place = pytest.mark.parametrize("place", PLACES)


class Lazy:
    """Looks like an awaitable, and is none."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Any:
        raise self._error


async def make_bob(make_peer: MakePeer, place: str, error: BaseException) -> StrongholdP2p[Any, Any]:
    arguments = PLACES[place](error)
    handlers = {name: arguments.pop(name) for name in ("on_request", "on_firewall_request") if name in arguments}
    bob = await make_peer(**({"firewall": FirewallRules.allow_all()} | arguments))
    bob.on_request(handlers.get("on_request", lambda request: "answered"))
    if "on_firewall_request" in handlers:
        bob.on_firewall_request(handlers["on_firewall_request"])
    return bob


@every_error
@every_place
async def test_what_a_request_meets_ends_it_and_nothing_else(
    make_peer: MakePeer, caplog: pytest.LogCaptureFixture, place: str, error: BaseException
) -> None:
    alice, bob = await make_peer(), await make_bob(make_peer, place, error)
    events = bob.events()
    address = await bob.listen()
    await alice.connect(address)
    (connection,) = alice.connections
    fails = "handler" in place and "firewall" not in place
    with pytest.raises(StreamReset if fails or place == "message" else NoResponse):
        await alice.send_request(address, {"bad": True})
    if fails:
        failed = (await next_event(events, RequestFailed)).error
        assert error in (failed, failed.__cause__)
        assert "the handler failed on a request" in caplog.text
    elif place == "message":
        failed = (await next_event(events, RequestFailed)).error
        assert isinstance(failed, DecodeError)
        assert failed.__cause__ is error
        assert failed.reason
    else:
        assert "rejected" in caplog.text
    (same,) = alice.connections
    assert same.opened_at == connection.opened_at
    await until(lambda: not bob.connections[0].streams)


@every_error
@pytest.mark.parametrize("make", [raising, raising_later, raising_later_still])
async def test_a_handler_of_streams(
    make_peer: MakePeer, caplog: pytest.LogCaptureFixture, make: Callable[..., Any], error: BaseException
) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    bob.handle_stream(PROTOCOL, make(error))
    stream = await alice.open_stream(await bob.listen(), PROTOCOL)
    with pytest.raises(StreamReset):
        await stream.read()
    assert "the handler of" in caplog.text
    assert len(alice.connections) == len(bob.connections) == 1


@every_error
@pytest.mark.parametrize("place", ["predicate", "view", "firewall handler", "async firewall handler"])
async def test_our_own_firewall(make_peer: MakePeer, place: str, error: BaseException) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: "answered")
    alice = await make_bob(make_peer, place, error)
    alice.set_firewall_default(alice.get_firewall_config().inbound)
    with pytest.raises(NotPermitted):
        await alice.send_request(await bob.listen(), 1)


async def test_words_of_a_request_for_argparse(make_peer: MakePeer, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int)
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: parser.parse_args(request.body).depth)
    address = await bob.listen()
    with pytest.raises(StreamReset):
        await alice.send_request(address, ["--deep"])
    assert "usage" in capsys.readouterr().err
    assert await alice.send_request(address, ["--depth", "3"]) == 3


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
@pytest.mark.parametrize("place", [*PLACES, "stream handler"])
def test_ctrl_c_ends_the_program(place: str, kind: str) -> None:
    make_loop = pytest.importorskip("uvloop").new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    peers: list[StrongholdP2p[Any, Any]] = []

    async def make_peer(**arguments: Any) -> StrongholdP2p[Any, Any]:
        peer: StrongholdP2p[Any, Any] = StrongholdP2p(**arguments)
        await peer.start()
        peers.append(peer)
        return peer

    async def ask() -> None:
        alice = await make_peer()
        with contextlib.suppress(StrongholdError):
            if place == "stream handler":
                bob = await make_peer(firewall=FirewallRules.allow_all())
                bob.handle_stream(PROTOCOL, raising_later(KeyboardInterrupt()))
                stream = await alice.open_stream(await bob.listen(), PROTOCOL)
                await stream.read()
            else:
                bob = await make_bob(make_peer, place, KeyboardInterrupt())
                await alice.send_request(await bob.listen(), {"bad": True})
        await asyncio.sleep(PATIENCE)  # if it ended in the same turn, the loop would be stopped once more

    async def end() -> None:
        closing = [await begun(peer.close()) for peer in peers]
        for task in closing:
            task.cancel()  # a request that was under way may hold it up
        await asyncio.gather(*closing, return_exceptions=True)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: None)  # a task that never ends is not its fault
        with pytest.raises(KeyboardInterrupt):
            runner.run(ask())
        runner.run(end())
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_goes_while_handlers_run(caplog: pytest.LogCaptureFixture) -> None:
    """Python throws GeneratorExit into them, which no handler has raised."""
    loop = asyncio.new_event_loop()

    async def start() -> list[Any]:
        alice: StrongholdP2p[Any, Any] = StrongholdP2p()
        bob: StrongholdP2p[Any, Any] = StrongholdP2p(firewall=FirewallRules.allow_all())
        running = asyncio.Event()

        @bob.on_request
        async def answer(request: Request[Any]) -> None:
            running.set()
            await asyncio.Event().wait()

        async def serve(stream: Stream) -> None:
            await stream.read()

        bob.handle_stream(PROTOCOL, serve)
        await alice.start()
        await bob.start()
        address = await bob.listen()
        stream = await alice.open_stream(address, PROTOCOL)
        await stream.negotiated()
        asking = asyncio.ensure_future(alice.send_request(address, 1))
        await running.wait()
        return [alice, bob, stream, asking]

    held = loop.run_until_complete(start())
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    del held
    gc.collect()
    assert "the handler of" not in caplog.text
