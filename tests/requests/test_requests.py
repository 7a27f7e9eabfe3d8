"""Requests between two whole peers: each ends once, with its response or one error."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from conftest import PATIENCE, MakePeer
from support.connections import ECHO, connected
from support.remote import JSON, Remote, lines, listening
from support.waiting import introduced, next_event, settled, turns, until
from support.yamux import data

from stronghold_p2p import (
    ClosedError,
    Config,
    ConnectionLost,
    DecodeError,
    DialError,
    EncodeError,
    FirewallRules,
    InvalidAddress,
    Keypair,
    Multiaddr,
    NoResponse,
    ProtocolNotSupported,
    RemoteProtocolError,
    Request,
    RequestFailed,
    RequestTimeout,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.event_hub import EventHub
from stronghold_p2p.firewall.approvals import Approvals
from stronghold_p2p.firewall.gate import Gate
from stronghold_p2p.firewall.rules import Firewall
from stronghold_p2p.requests import Requester
from stronghold_p2p.requests.codec import make_codec
from stronghold_p2p.requests.inbound import InboundRequest, State
from stronghold_p2p.requests.protocol import RequestProtocol
from stronghold_p2p.requests.requester import _OutboundRequest
from stronghold_p2p.resources.refusals import Refusals
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.output import FLUSH_FRAMES
from stronghold_p2p.transport.state import RemoteIdentify
from stronghold_p2p.wire.yamux import INITIAL_WINDOW, Flag

Peer = StrongholdP2p[Any, Any]
MIB = 1024 * 1024


@pytest.fixture
async def connect(make_peer: MakePeer) -> Callable[..., Awaitable[tuple[Peer, Peer, Multiaddr]]]:
    """Makes alice, bob who listens, and his address; arguments are for both."""

    async def make(config: Config | None = None, **arguments: Any) -> tuple[Peer, Peer, Multiaddr]:
        alice = await make_peer(config=config, **arguments)
        bob = await make_peer(config=config, firewall=FirewallRules.allow_all(), **arguments)
        return alice, bob, await bob.listen()

    return make


Connect = Callable[..., Awaitable[tuple[Peer, Peer, Multiaddr]]]


def echo(request: Request[Any]) -> Any:
    return request.body


async def echo_later(request: Request[Any]) -> Any:
    await asyncio.sleep(0)
    return request.body


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the library has warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# -- handlers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [echo, echo_later])
@pytest.mark.parametrize("body", [None, 1, "text", [1, [2]], {"a": {"b": "ü"}}, "x" * 500_000])
async def test_what_a_handler_returns_is_the_response(connect: Connect, handler: Any, body: Any) -> None:
    alice, bob, address = await connect()
    assert bob.on_request(handler) is handler
    assert await alice.send_request(address, body) == body


@pytest.mark.parametrize("form", [str, lambda address: address, lambda address: address.peer_id])
async def test_whom_to_ask(connect: Connect, form: Callable[[Multiaddr], Any]) -> None:
    alice, bob, address = await connect()
    bob.on_request(echo)
    alice.addresses.add(address)
    assert await alice.send_request(form(address), 1) == 1
    assert await alice.send_request(str(bob.peer_id), 2) == 2


async def test_a_handler_sees_who_asks(connect: Connect) -> None:
    alice, bob, address = await connect()
    seen: list[Request[Any]] = []
    bob.on_request(lambda request: seen.append(request))
    assert await alice.send_request(address, {"secret": 1}) is None
    (request,) = seen
    assert request.peer == alice.peer_id
    assert request.body == {"secret": 1}
    assert request.connection.peer == alice.peer_id
    assert "secret" not in repr(request)
    with pytest.raises(RuntimeError):
        await request.respond(1)
    with pytest.raises(RuntimeError):
        await request.decline()


@pytest.mark.parametrize("later", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("failure", ["raises", "unencodable", "too large"])
async def test_a_handler_that_fails(
    connect: Connect, later: bool, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob, address = await connect()

    def answer(request: Request[Any]) -> Any:
        if failure == "raises":
            raise KeyError("of the handler")
        return object() if failure == "unencodable" else "x" * MIB

    async def answer_later(request: Request[Any]) -> Any:
        return answer(request)

    bob.on_request(answer_later if later else answer)
    events = bob.events()
    with pytest.raises(StreamReset):
        await alice.send_request(address, 1)
    failed = await next_event(events, RequestFailed)
    assert failed.peer == alice.peer_id
    assert isinstance(failed.error, KeyError if failure == "raises" else EncodeError)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "stronghold_p2p"
    assert record.exc_info


async def test_a_handler_that_is_too_slow(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    alice, bob, address = await connect(Config(handler_timeout=0.02))
    cancelled = asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    events = bob.events()
    with pytest.raises(StreamReset):
        await alice.send_request(address, 1)
    failed = await next_event(events, RequestFailed)
    assert isinstance(failed.error, RequestTimeout)
    assert failed.error.timeout == 0.02
    await cancelled.wait()
    assert warnings_in(caplog) == [f"a request from {alice.peer_id} was reset: the handler did not end within 0.02 s"]


async def test_a_second_handler_or_iterator(make_peer: MakePeer) -> None:
    bob = await make_peer()
    bob.on_request(echo)
    with pytest.raises(RuntimeError):
        bob.on_request(echo)
    with pytest.raises(RuntimeError):
        bob.requests()
    other = await make_peer()
    other.requests()
    with pytest.raises(RuntimeError):
        other.on_request(echo)


async def test_without_a_handler_the_protocol_is_not_offered(connect: Connect) -> None:
    alice, bob, address = await connect()
    with pytest.raises(ProtocolNotSupported):
        await alice.send_request(address, 1)
    bob.on_request(echo)
    assert await alice.send_request(address, 1) == 1


async def test_a_handler_may_be_set_before_the_start() -> None:
    bob = StrongholdP2p[Any, Any](firewall=FirewallRules.allow_all())
    bob.on_request(echo)
    async with bob, StrongholdP2p[Any, Any]() as alice:
        assert await alice.send_request(await bob.listen(), 1) == 1


async def test_a_handler_may_ask_back(connect: Connect) -> None:
    alice, bob, address = await connect()
    alice.set_firewall_default(bob.get_firewall_config().inbound)
    alice.on_request(lambda request: request.body + 1)

    @bob.on_request
    async def answer(request: Request[Any]) -> Any:
        return await bob.send_request(request.peer, request.body + 1)

    assert await alice.send_request(address, 1) == 3
    assert len(alice.connections) == len(bob.connections) == 1


# -- the iterator --------------------------------------------------------------------------------------


async def test_requests_are_taken_and_answered(connect: Connect) -> None:
    alice, bob, address = await connect()
    requests = bob.requests()
    asking = [asyncio.create_task(alice.send_request(address, number)) for number in range(3)]
    async for request in requests:
        await request.respond(request.body * 10)
        with pytest.raises(RuntimeError):
            await request.respond(0)
        with pytest.raises(RuntimeError):
            await request.decline()
        if request.body == 2:
            break
    assert await asyncio.gather(*asking) == [0, 10, 20]


async def test_a_declined_request(connect: Connect) -> None:
    alice, bob, address = await connect()
    requests = bob.requests()
    asking = asyncio.create_task(alice.send_request(address, 1))
    request = await anext(requests)
    await request.decline()
    with pytest.raises(NoResponse) as caught:
        await asking
    assert caught.value.peer == bob.peer_id


async def test_a_request_that_is_dropped_unanswered_is_declined(connect: Connect) -> None:
    alice, bob, address = await connect()
    requests = bob.requests()
    asking = asyncio.create_task(alice.send_request(address, 1))
    await anext(requests)
    gc.collect()
    with pytest.raises(NoResponse):
        await asking


@pytest.mark.parametrize("end", ["answered", "cancelled", "lost"])
async def test_a_request_that_has_ended_is_freed_at_once(connect: Connect, end: str) -> None:
    """By its last reference and not by the collector, which would take a tenth of a second for what a remote cancels."""
    alice, bob, address = await connect()
    handling: list[object] = []

    @bob.on_request
    async def answer(request: Request[Any]) -> Any:
        handling.append(None)
        if end != "answered":
            await asyncio.Event().wait()

    async def ask() -> None:
        asking = asyncio.create_task(alice.send_request(address, 1))
        if end == "cancelled":
            await until(lambda: handling)
            asking.cancel()
        elif end == "lost":
            await until(lambda: handling)
            assert bob._parts.swarm is not None
            bob._parts.swarm.connections[0].abort()
            await until(lambda: not alice.connections)
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: not bob._parts.responder.traffic)

    await introduced(alice, address)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            handling.clear()
            await ask()
        await settled()
        left = [kept for kept in gc.get_objects() if isinstance(kept, (InboundRequest, _OutboundRequest))]
    finally:
        gc.enable()
    assert len(left) <= 1  # the task of the last one stays until the next


async def test_a_response_that_cannot_be_encoded_may_be_replaced(connect: Connect) -> None:
    alice, bob, address = await connect()
    requests = bob.requests()
    asking = asyncio.create_task(alice.send_request(address, 1))
    request = await anext(requests)
    with pytest.raises(EncodeError):
        await request.respond(object())
    await request.respond("instead")
    assert await asking == "instead"


async def test_responding_to_whoever_is_gone_does_nothing(connect: Connect) -> None:
    alice, bob, address = await connect()
    requests = bob.requests()
    asking = [asyncio.create_task(alice.send_request(address, number)) for number in range(2)]
    first, second = await anext(requests), await anext(requests)
    for task in asking:
        task.cancel()
    await until(lambda: all(request._inbound.state is State.ENDED for request in (first, second)))
    await first.respond(1)
    with pytest.raises(RuntimeError):
        await first.respond(1)
    await second.decline()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_request_that_nobody_answers_in_time(connect: Connect) -> None:
    alice, bob, address = await connect(Config(handler_timeout=0.02))
    requests, events = bob.requests(), bob.events()
    asking = asyncio.create_task(alice.send_request(address, 1))
    request = await anext(requests)
    with pytest.raises(StreamReset):
        await asking
    assert isinstance((await next_event(events, RequestFailed)).error, RequestTimeout)
    await request.respond("too late")


async def test_requests_beyond_the_buffer_wait_in_their_streams(connect: Connect) -> None:
    alice, bob, address = await connect()
    requests = bob.requests(buffer=2)
    body = "x" * 400_000  # more than the first window of a stream
    asking = [asyncio.create_task(alice.send_request(address, [number, body])) for number in range(6)]
    queue: Any = bob._parts.responder._queue
    await until(lambda: len(queue._waiting) == 4)
    assert await alice.ping(address) > 0  # which holds up nobody else
    taken = []
    for _ in asking:
        request = await anext(requests)
        taken.append(request.body[0])
        await request.respond(request.body[0])
    assert sorted(taken) == list(range(6))
    assert await asyncio.gather(*asking) == list(range(6))


async def test_requests_that_end_in_the_queue_make_room(connect: Connect) -> None:
    alice, bob, address = await connect()
    requests = bob.requests(buffer=1)
    await introduced(alice, address)
    queue: Any = bob._parts.responder._queue
    taken = asyncio.create_task(alice.send_request(address, "taken"))
    await until(lambda: len(queue._ready) == 1)
    cancelled = [asyncio.create_task(alice.send_request(address, number)) for number in range(5)]
    await until(lambda: len(queue._waiting) == 5)
    for task in cancelled:
        task.cancel()
    await until(lambda: not queue._waiting)
    last = asyncio.create_task(alice.send_request(address, "last"))
    for expected in ("taken", "last"):
        request = await anext(requests)
        assert request.body == expected
        await request.respond(expected)
    assert await taken == "taken"
    assert await last == "last"
    await asyncio.gather(*cancelled, return_exceptions=True)


async def test_a_request_that_cannot_be_decoded(make_peer: MakePeer, caplog: pytest.LogCaptureFixture) -> None:
    alice = await make_peer()
    bob = await make_peer(firewall=FirewallRules.allow_all(), request_type=int)
    bob.on_request(echo)
    address, events = await bob.listen(), bob.events()
    for _ in range(50):  # which no remote may fill the log with
        with pytest.raises(StreamReset):
            await alice.send_request(address, "secret")
        assert isinstance((await next_event(events, RequestFailed)).error, DecodeError)
    assert warnings_in(caplog)[0] == f"a request from {alice.peer_id} cannot be decoded"
    assert len(caplog.records) < 10  # one a second
    assert "secret" not in caplog.text


async def test_a_request_that_does_not_come_in_time(make_peer: MakePeer, caplog: pytest.LogCaptureFixture) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(request_timeout=0.02))
    bob.on_request(echo)
    remote, events = await Remote.dial(await bob.listen()), bob.events()
    remote.send(data(1, lines(JSON) + b"\x08sec", Flag.SYN))
    failed = await next_event(events, RequestFailed)
    assert isinstance(failed.error, RequestTimeout)
    assert warnings_in(caplog) == [
        f"a request from {failed.peer} was reset: the inbound request did not end within 0.02 s"
    ]
    await remote.close()


async def test_a_response_that_the_requester_does_not_read(
    make_peer: MakePeer, caplog: pytest.LogCaptureFixture
) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(request_timeout=0.02))
    bob.on_request(lambda request: "x" * 500_000)
    remote, events = await Remote.dial(await bob.listen()), bob.events()
    remote.send(data(1, lines(JSON) + b"\x011", Flag.SYN))
    failed = await next_event(events, RequestFailed)
    assert warnings_in(caplog) == [f"a request from {failed.peer} was reset: the response did not end within 0.02 s"]
    frames = await remote.frames_of(1)
    assert sum(len(frame.body) for frame in frames) == INITIAL_WINDOW
    assert frames[-1].flags & Flag.RST
    await remote.close()


async def test_invalid_requests_do_not_fill_the_buffer(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), request_type=int)
    alice = await make_peer()
    requests = bob.requests(buffer=2)
    address = await bob.listen()
    for _ in range(5):
        with pytest.raises(StreamReset):
            await alice.send_request(address, "no number")
    asking = asyncio.create_task(alice.send_request(address, 5))
    await (await anext(requests)).respond(6)
    assert await asking == 6


async def test_hundreds_of_invalid_requests_that_waited(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), request_type=int)
    alice = await make_peer(config=Config(max_outbound_streams_per_connection=400))
    requests = bob.requests(buffer=1)
    address = await bob.listen()
    await introduced(alice, address)
    queue: Any = bob._parts.responder._queue
    valid = asyncio.create_task(alice.send_request(address, 1))
    await until(lambda: len(queue._ready) == 1)
    invalid = [asyncio.create_task(alice.send_request(address, "no number")) for _ in range(350)]
    await until(lambda: len(queue._waiting) == 350)
    await (await anext(requests)).respond(2)
    assert await valid == 2
    outcomes = await asyncio.gather(*invalid, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StreamReset}


async def test_what_nobody_has_taken_counts_as_received_and_goes_with_its_requester(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), codec="raw")
    alice = await make_peer(codec="raw")
    requests = bob.requests(buffer=2)
    address = await bob.listen()
    asking = [asyncio.create_task(alice.send_request(address, bytes(10_000))) for _ in range(3)]
    queue: Any = bob._parts.responder._queue
    assert bob._parts.swarm is not None
    budget = bob._parts.swarm.memory
    await until(lambda: len(queue._ready) == 2)
    assert budget.used >= 20_000
    request = await anext(requests)
    await until(lambda: len(queue._ready) == 2)
    await request.respond(b"taken")
    await alice.disconnect(bob.peer_id)
    await until(lambda: not queue._ready)
    assert budget.used == 0
    await asyncio.gather(*asking, return_exceptions=True)
    assert queue._room == 2


async def test_the_iteration_ends_with_the_peer(connect: Connect) -> None:
    _, bob, _ = await connect()
    requests = bob.requests()
    await bob.close()
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(requests)


async def test_a_buffer_has_room_for_one_at_least(make_peer: MakePeer) -> None:
    bob = await make_peer()
    with pytest.raises(ValueError, match="at least 1"):
        bob.requests(buffer=0)


# -- types, codecs, sizes ------------------------------------------------------------------------------


class Ping(msgspec.Struct, frozen=True):
    pass


class Read(msgspec.Struct, frozen=True):
    name: str


class Found(msgspec.Struct, frozen=True):
    content: str


async def test_typed_requests_and_responses(make_peer: MakePeer) -> None:
    types: Any = {"request_type": Ping | Read, "response_type": Found}
    alice, bob = await make_peer(**types), await make_peer(firewall=FirewallRules.allow_all(), **types)
    bob.on_request(lambda request: Found(repr(request.body)))
    address = await bob.listen()
    assert await alice.send_request(address, Ping()) == Found("Ping()")
    assert await alice.send_request(address, Read("a")) == Found("Read(name='a')")
    with pytest.raises(EncodeError):
        await alice.send_request(address, {"Read": {"name": "a"}})


async def test_a_response_that_is_not_of_the_declared_type(make_peer: MakePeer) -> None:
    alice = await make_peer(response_type=Found)
    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: "no Found")
    with pytest.raises(DecodeError):
        await alice.send_request(await bob.listen(), 1)


@pytest.mark.parametrize(("codec", "body"), [("msgpack", {"a": b"\xff"}), ("raw", b"\xff\x00"), ("raw", b"")])
@pytest.mark.parametrize("handler", [echo, echo_later])
async def test_other_codecs(connect: Connect, codec: str, body: Any, handler: Any) -> None:
    alice, bob, address = await connect(codec=codec)
    bob.on_request(handler)
    assert await alice.send_request(address, body) == body


async def test_a_peer_of_another_codec(make_peer: MakePeer) -> None:
    alice = await make_peer(codec="msgpack")
    bob = await make_peer(codec="raw", firewall=FirewallRules.allow_all())
    bob.on_request(echo)
    with pytest.raises(ProtocolNotSupported) as caught:
        await alice.send_request(await bob.listen(), 1)
    assert caught.value.protocol == "/stronghold-p2p/msgpack/1.0.0"


@pytest.mark.parametrize("codec", ["json", "msgpack", "raw"])
async def test_a_message_as_large_as_allowed_and_one_byte_more(connect: Connect, codec: str) -> None:
    config = Config(max_json_message=400_000, max_msgpack_message=400_000, max_raw_message=400_000)
    alice, bob, address = await connect(config, codec=codec)
    bob.on_request(echo)
    envelope = {"json": 2, "msgpack": 5, "raw": 0}[codec]
    body: Any = "x" * (400_000 - envelope) if codec != "raw" else bytes(400_000)
    assert await alice.send_request(address, body) == body
    with pytest.raises(EncodeError):
        await alice.send_request(address, body + body[:1])


async def test_a_response_over_the_requesters_limit(make_peer: MakePeer) -> None:
    alice = await make_peer(config=Config(max_json_message=1000))
    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: "x" * 2000)
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        await alice.send_request(await bob.listen(), 1)


async def test_a_request_over_the_responders_limit(make_peer: MakePeer) -> None:
    alice = await make_peer()
    bob = await make_peer(config=Config(max_json_message=1000), firewall=FirewallRules.allow_all())
    bob.on_request(echo)
    address, events = await bob.listen(), bob.events()
    with pytest.raises(StreamReset):
        await alice.send_request(address, "x" * 500_000)
    assert isinstance((await next_event(events, RequestFailed)).error, DecodeError)
    assert await alice.send_request(address, 1) == 1


async def test_an_unencodable_request_sends_nothing(connect: Connect) -> None:
    alice, _, address = await connect()
    with pytest.raises(EncodeError):
        await alice.send_request(address, object())
    assert alice.connections == ()


# -- many at once, and the budget ----------------------------------------------------------------------


@pytest.mark.parametrize("handler", [echo, echo_later])
async def test_a_thousand_at_once(connect: Connect, handler: Any) -> None:
    alice, bob, address = await connect()
    bob.on_request(handler)
    answers = await asyncio.gather(*(alice.send_request(address, number) for number in range(1000)))
    assert answers == list(range(1000))
    assert len(alice.connections) == 1


async def test_many_requests_of_one_turn_leave_in_few_writes(connect: Connect) -> None:
    alice, bob, address = await connect()
    bob.on_request(echo)
    assert await alice.send_request(address, 0) == 0
    assert alice._parts.swarm is not None
    (connection,) = alice._parts.swarm.connections
    await until(lambda: connection.remote_identify is RemoteIdentify.SERVED and not connection.info.streams)
    await settled()
    before = connection.output.flushes
    asking = [asyncio.create_task(alice.send_request(address, number)) for number in range(10 * FLUSH_FRAMES)]
    await turns(2)
    assert connection.output.flushes == before + 10
    assert await asyncio.gather(*asking) == list(range(len(asking)))


async def test_both_ask_at_once(connect: Connect) -> None:
    alice, bob, address = await connect()
    alice.set_firewall_default(bob.get_firewall_config().inbound)
    for peer in alice, bob:
        peer.on_request(echo_later)
    await alice.connect(address)
    there = [alice.send_request(address, ["x" * 5000, number]) for number in range(100)]
    back = [bob.send_request(alice.peer_id, ["y" * 5000, number]) for number in range(100)]
    answers = await asyncio.gather(*there, *back)
    assert [answer[1] for answer in answers] == [*range(100), *range(100)]


SMALL_BUDGET = Config(max_receive_buffer=3 * 3 * MIB, max_raw_message=MIB)


async def test_large_ones_within_a_small_budget_all_end(connect: Connect) -> None:
    alice, bob, address = await connect(SMALL_BUDGET, codec="raw")
    bob.on_request(echo_later)
    bodies = [bytes((number,)) * MIB for number in range(6)]
    # Two fit. One goes on, whatever the others have sent of theirs, and each has its turn.
    asking = (alice.send_request(address, body, timeout=PATIENCE) for body in bodies)
    assert await asyncio.gather(*asking) == bodies
    for peer in alice, bob:
        assert peer._parts.swarm is not None
        swarm = peer._parts.swarm
        await until(lambda swarm=swarm: swarm.memory.used == 0)  # type: ignore[misc]


# -- ends that are no response -------------------------------------------------------------------------


async def test_the_time_is_up(connect: Connect) -> None:
    alice, bob, address = await connect()
    cancelled = asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await introduced(alice, address)
    with pytest.raises(RequestTimeout) as caught:
        await alice.send_request(address, 1, timeout=0.02)
    assert caught.value.timeout == 0.02
    await cancelled.wait()


async def test_the_time_is_up_before_there_is_a_stream(connect: Connect) -> None:
    alice, bob, address = await connect(Config(max_outbound_streams_per_connection=1))
    never = asyncio.Event()
    bob.on_request(lambda request: never.wait())
    await introduced(alice, address)
    first = asyncio.create_task(alice.send_request(address, 1))
    await settled()
    with pytest.raises(RequestTimeout):
        await alice.send_request(address, 2, timeout=0.02)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_the_time_is_up_before_there_is_a_connection(make_peer: MakePeer) -> None:
    alice = await make_peer()
    async with listening() as listener:
        with pytest.raises(DialError) as caught:
            await alice.send_request(listener.address, 1, timeout=0.02)
        (attempt,) = caught.value.attempts
        assert attempt.address == listener.address.without_peer()
        assert isinstance(attempt.error, TimeoutError)
        await (await listener.accept()).close()


async def test_a_cancelled_request_cancels_its_handler(connect: Connect) -> None:
    alice, bob, address = await connect()
    running, cancelled = asyncio.Event(), asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    asking = asyncio.create_task(alice.send_request(address, 1))
    await running.wait()  # before anybody is asked what it is
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await cancelled.wait()
    await until(lambda: not bob.connections[0].streams)
    assert len(alice.connections) == 1


async def test_a_connection_lost_in_the_middle(connect: Connect) -> None:
    alice, bob, address = await connect()
    running = asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> None:
        running.set()
        await asyncio.Event().wait()

    asking = asyncio.create_task(alice.send_request(address, 1))
    await running.wait()
    assert bob._parts.swarm is not None
    bob._parts.swarm.connections[0].abort()
    with pytest.raises(ConnectionLost):
        await asking


async def test_a_request_meets_a_connection_that_closes_and_is_sent_on_a_new_one(connect: Connect) -> None:
    alice, bob, address = await connect(Config(max_outbound_streams_per_connection=1))
    seen: list[Any] = []
    may_end = asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> Any:
        seen.append(request.body)
        await may_end.wait()
        return request.body

    await introduced(alice, address)
    first = asyncio.create_task(alice.send_request(address, "first"))
    await until(lambda: seen)
    second = asyncio.create_task(alice.send_request(address, "second"))
    await settled()
    await alice.disconnect(bob.peer_id)  # nothing of the second has left
    may_end.set()
    with pytest.raises(ConnectionLost):
        await first
    assert await second == "second"
    assert seen == ["first", "second"]


@pytest.mark.parametrize("twice", [False, True], ids=["then a good one", "then another that is lost"])
async def test_a_request_of_which_no_byte_has_left_is_tried_once_more(twice: bool) -> None:
    codec = make_codec("json", None, max_size=MIB)
    firewall = Firewall(FirewallRules())
    events = EventHub()
    gate = Gate(firewall, Approvals(firewall, Config(), events.emit, Refusals(events.emit)), None, events)
    requester = Requester[Any, Any]([RequestProtocol(ECHO, codec, codec)], gate)
    async with connected() as lost, connected() as fresh:
        connects = 0

        async def connect(deadline: float) -> Connection:
            nonlocal connects
            connects += 1
            if twice:
                fresh.alice_pipe.break_with(None)
            return fresh.alice

        lost.alice_pipe.break_with(None)  # tells the connection in the next turn
        asking = requester.request(lost.alice.peer, 1, timeout=5, connect=connect, connection=lost.alice)
        if twice:
            with pytest.raises(DialError, match="before the request left"):  # ConnectionLost would leave that open
                await asking
        else:
            asking_task = asyncio.ensure_future(asking)
            inbound = await fresh.bob_host.inbound.get()
            assert await inbound.readexactly(2) == b"\x011"
            await inbound.write(b"\x012")
            assert await asking_task == 2
            await inbound.close()
        assert connects == 1
        assert lost.bob_host.inbound.empty()


async def test_closing_lets_running_requests_end(connect: Connect) -> None:
    alice, bob, address = await connect()
    running, may_end = asyncio.Event(), asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> Any:
        running.set()
        await may_end.wait()
        return "done"

    asking = asyncio.create_task(alice.send_request(address, 1))
    await running.wait()
    closing = [asyncio.create_task(peer.close()) for peer in (bob, alice)]
    await settled()
    with pytest.raises(ClosedError):
        await alice.send_request(address, 2)
    may_end.set()
    assert await asking == "done"
    await asyncio.gather(*closing)


async def test_closing_resets_what_does_not_end(connect: Connect) -> None:
    alice, bob, address = await connect(Config(close_timeout=0.02))
    running = asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> Any:
        running.set()
        await asyncio.Event().wait()

    asking = asyncio.create_task(alice.send_request(address, 1))
    await running.wait()
    await bob.close()
    with pytest.raises(ConnectionLost):
        await asking


async def test_closing_in_the_middle_of_traffic(connect: Connect) -> None:
    alice, bob, address = await connect(Config(close_timeout=0.2))
    bob.on_request(echo_later)
    asking = [asyncio.create_task(alice.send_request(address, ["x" * 1000, number])) for number in range(300)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(bob.close(), alice.close())
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    kinds = {type(outcome) for outcome in outcomes}
    assert list in kinds
    assert kinds <= {list, ConnectionLost, ClosedError, ProtocolNotSupported, DialError}


async def test_targets_that_cannot_be_asked(connect: Connect) -> None:
    alice, _, address = await connect()
    for target in (
        *("/ip4/127.0.0.1/tcp/4001", "/ip4/1.2.3/tcp/1/p2p/x", "nonsense", "", "/"),
        *(address.without_peer(), address.without_peer().with_peer(alice.peer_id), alice.peer_id, str(alice.peer_id)),
    ):
        with pytest.raises(InvalidAddress):
            await alice.send_request(target, 1)
    with pytest.raises(DialError) as caught:
        await alice.send_request(Keypair.generate().peer_id, 1)
    assert caught.value.attempts == ()


async def test_outside_of_its_life_a_peer_does_not_ask() -> None:
    peer = StrongholdP2p[Any, Any]()
    target = Keypair.generate().peer_id
    for _ in range(2):
        with pytest.raises(ClosedError):
            await peer.send_request(target, 1)
        await peer.close()


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_handler_that_meets_a_cancelled_future_ends_only_its_request(connect: Connect, kind: str) -> None:
    alice, bob, address = await connect()
    events = bob.events()

    def plain(request: Request[Any]) -> Any:
        if request.body != "bad":
            return request.body
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        return future.result()

    async def asynchronous(request: Request[Any]) -> Any:
        return plain(request)

    bob.on_request(plain if kind == "plain" else asynchronous)
    with pytest.raises(StreamReset):
        await alice.send_request(address, "bad")
    assert isinstance((await next_event(events, RequestFailed)).error, RuntimeError)
    assert await alice.send_request(address, "good") == "good"


async def test_what_a_remote_sends_beyond_twice_the_budget_is_reset(connect: Connect) -> None:
    alice, bob, address = await connect(config=Config(max_receive_buffer=3 * 4 * 65_536))
    held: list[Any] = []
    bob.handle_stream("/held/1.0.0", lambda stream: _hold(stream, held))
    streams = [await alice.open_stream(address, "/held/1.0.0") for _ in range(8)]
    await asyncio.gather(*(stream.negotiated() for stream in streams))
    await asyncio.gather(*(stream.write(bytes(200_000)) for stream in streams), return_exceptions=True)
    reading = [asyncio.create_task(stream.read()) for stream in streams]
    await until(lambda: sum(task.done() for task in reading) == 6)
    await settled()
    assert [task.done() for task in reading] == [False] * 2 + [True] * 6  # two fit: 400,000 bytes of 524,288
    assert {type(task.exception()) for task in reading[2:]} == {StreamReset}
    for stream in streams:
        stream.reset()
    await asyncio.gather(*reading, return_exceptions=True)


async def _hold(stream: Any, held: list[Any]) -> None:
    held.append(stream)
    await asyncio.get_running_loop().create_future()
