"""The steps of an inbound request, and that there are no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.compiled import replaces_parts

from stronghold_p2p import Config, ConnectionLost, DecodeError, Keypair, RequestTimeout
from stronghold_p2p.requests.codec import make_codec
from stronghold_p2p.requests.inbound import TRANSITIONS, InboundRequest, Request, RequestHost, State, Step
from stronghold_p2p.requests.protocol import RequestProtocol

pytestmark = replaces_parts

CODEC = make_codec("raw", None, max_size=20_000)
PEER = Keypair.generate().peer_id
CONFIG = Config(request_timeout=1, handler_timeout=2)


class FakeStream:
    """One stream, as far as a request sees it."""

    protocol = "/test/1.0.0"
    peer = PEER

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.takes = True
        self.sent = b""
        self.held = 0
        self.window = 0
        self.end = ""
        self.deadline: float | None = None

    def now(self) -> float:
        return 0.0

    def set_deadline(self, when: float) -> None:
        self.deadline = when

    def clear_deadline(self) -> None:
        self.deadline = None

    def hold(self, size: int) -> None:
        self.held += size

    def let_go(self, size: int) -> None:
        self.held -= size

    def credit(self, size: int) -> None:
        self.window += size

    def expect(self, size: int) -> None: ...

    def write_now(self, data: bytes) -> bool:
        return self.takes and self.push(data)

    def push(self, data: bytes) -> bool:
        self.sent += data
        return self.takes

    def spawn(self, coroutine: Any) -> asyncio.Task[None]:
        return self.loop.create_task(coroutine)

    begin = spawn

    def release(self) -> None:
        self.end = self.end or "released"

    def reset(self, code: int = 0) -> None:
        self.end = self.end or "reset"


class Host(RequestHost[bytes, bytes]):
    """Does with a whole request what a test says."""

    def __init__(self, serve: Callable[[InboundRequest[bytes, bytes], bytes], None]) -> None:
        self.config = CONFIG
        self.serve = serve
        self.has_room = True
        self.waiting_responses: list[int] = []
        self.failures: list[Exception] = []
        self.times_ended = 0

    def completed(self, inbound: InboundRequest[bytes, bytes]) -> None:
        if self.has_room:
            inbound.admit()

    def deliver(self, inbound: InboundRequest[bytes, bytes], message: bytes) -> None:
        self.serve(inbound, message)

    def responding(self, inbound: InboundRequest[bytes, bytes], size: int) -> None:
        self.waiting_responses.append(size)

    def failed(self, inbound: InboundRequest[bytes, bytes], error: RequestTimeout | DecodeError) -> None:
        self.failures.append(error)
        inbound.reset()

    def ended(self, inbound: InboundRequest[bytes, bytes]) -> None:
        self.times_ended += 1


class Case:
    """A request that was just opened."""

    def __init__(
        self, serve: Callable[[InboundRequest[bytes, bytes], bytes], None] = lambda *_: None, *, room: bool = True
    ) -> None:
        self.host = Host(serve)
        self.host.has_room = room
        self.stream = FakeStream()
        stream: Any = self.stream
        self.inbound = InboundRequest(stream, RequestProtocol("/test/1.0.0", CODEC, CODEC), self.host)

    @property
    def state(self) -> State:
        return self.inbound.state


def keep(inbound: InboundRequest[bytes, bytes], message: bytes) -> None:
    """As a firewall that has not decided."""


def let_in(inbound: InboundRequest[bytes, bytes], message: bytes) -> None:
    inbound.hand_over()


# -- the table -----------------------------------------------------------------------------------------


def test_every_state_can_be_reached_and_left() -> None:
    reached, left = {State.READING}, [State.READING]
    while left:
        for state in TRANSITIONS[left.pop()].values():
            if state not in reached:
                reached.add(state)
                left.append(state)
    assert reached == set(TRANSITIONS) == set(State)
    for state in State:
        assert (Step.END in TRANSITIONS[state]) == (state is not State.ENDED)


def test_no_step_leads_back() -> None:
    """So that each request ends."""
    for state, steps in TRANSITIONS.items():
        for following in steps.values():
            assert following > state


# -- the steps -----------------------------------------------------------------------------------------


async def test_from_the_first_byte_to_the_last() -> None:
    case = Case(let_in)
    inbound, stream = case.inbound, case.stream
    states = [case.state]
    assert stream.deadline == CONFIG.request_timeout
    inbound.data_received(b"\x03a")
    assert (stream.window, stream.held) == (2, 2)
    inbound.data_received(b"bc")
    states.append(case.state)
    assert stream.held == 0
    inbound.respond(b"answer")
    states.append(case.state)
    assert states == [State.READING, State.ANSWERING, State.ENDED]
    assert (stream.sent, stream.end, case.host.times_ended) == (b"\x06answer", "released", 1)


async def test_one_that_waits_for_room() -> None:
    case = Case(let_in, room=False)
    case.inbound.data_received(b"\x03abc")
    assert (case.state, case.stream.held, case.stream.window) == (State.WAITING, 3, 0)
    case.inbound.admit()
    assert (case.state, case.stream.held) == (State.ANSWERING, 0)


async def test_a_large_one_counts_until_it_is_answered() -> None:
    case = Case(let_in)
    case.inbound.data_received(b"\x80\x80\x01" + bytes(16_384))
    assert (case.state, case.stream.held) == (State.ANSWERING, 16_384)
    case.inbound.respond(b"answer")
    assert (case.state, case.stream.held) == (State.ENDED, 0)


async def test_one_that_ends_before_it_is_whole_was_none() -> None:
    case = Case(let_in)
    case.inbound.data_received(b"\x03ab")
    case.inbound.stream_failed(ConnectionLost())
    assert (case.state, case.host.times_ended) == (State.ENDED, 0)


async def test_what_follows_a_request_is_ignored() -> None:
    case = Case(keep)
    case.inbound.data_received(b"\x03abc\x03def")
    case.inbound.data_received(b"\x03ghi")
    case.inbound.eof_received()
    assert (case.state, case.stream.held) == (State.DECIDING, 0)


async def test_one_that_is_queued_counts_until_it_is_taken() -> None:
    case = Case(lambda inbound, message: inbound.queue())
    case.inbound.data_received(b"\x03abc")
    assert (case.state, case.stream.held) == (State.QUEUED, 3)
    assert case.stream.deadline == CONFIG.handler_timeout
    case.inbound.hand_over()
    assert (case.state, case.stream.held) == (State.ANSWERING, 0)


async def test_a_response_that_has_to_wait() -> None:
    case = Case(let_in)
    case.inbound.data_received(b"\x03abc")
    case.stream.takes = False
    case.inbound.respond(b"answer")
    assert (case.state, case.stream.end) == (State.RESPONDING, "")
    assert case.stream.deadline == CONFIG.request_timeout
    assert case.host.waiting_responses == [6]
    case.inbound.resume_writing()
    assert (case.state, case.stream.end, case.host.times_ended) == (State.ENDED, "released", 1)


@pytest.mark.parametrize("end", ["reject", "reset", "failed", "expired", "closing", "eof", "rest"])
@pytest.mark.parametrize("state", State)
async def test_an_end_in_each_state(state: State, end: str) -> None:
    case = Case({State.ANSWERING: let_in, State.RESPONDING: let_in}.get(state, keep))
    inbound, stream, host = case.inbound, case.stream, case.host
    part = state is State.READING
    host.has_room = state is not State.WAITING
    inbound.data_received(b"\x03ab" if part else b"\x03abc")
    if state is State.QUEUED:
        inbound.queue()
    if state is State.RESPONDING:
        stream.takes = False
        inbound.respond(b"answer")
    if state is State.ENDED:
        inbound.reset()
    assert inbound.state is state
    before = stream.end
    match end:
        case "reject":
            inbound.reject()
        case "reset":
            inbound.reset()
        case "failed":
            inbound.stream_failed(ConnectionLost())
        case "expired":
            if state is not State.ENDED:
                inbound.expired()
        case "closing":
            inbound.connection_closing()
        case "eof":
            inbound.eof_received()
        case "rest":
            inbound.data_received(b"c" + b"\xff" * 10)
    ends = state is State.ENDED or {
        "closing": state not in {State.ANSWERING, State.RESPONDING},  # those it does not know of are lost
        "eof": part,
        "rest": False,  # whether it is malformed does not matter
    }.get(end, True)
    assert (inbound.state is State.ENDED) == ends
    assert host.times_ended == (ends and not part)
    if state is not State.ENDED:
        how = {"reject": "released", "closing": "released", "failed": ""}.get(end, "reset")
        assert stream.end == (how if ends else before)
    limits = {State.QUEUED: (2, "handler"), State.ANSWERING: (2, "handler"), State.RESPONDING: (1, "response")}
    if end == "expired" and state is not State.ENDED:
        seconds, what = limits.get(state, (1, "inbound request"))
        assert str(host.failures[0]) == f"the {what} did not end within {seconds} s"


@pytest.mark.parametrize("step", ["admit", "hand_over", "queue", "respond"])
async def test_a_step_that_there_is_not(step: str) -> None:
    case = Case(keep)
    with pytest.raises(KeyError):
        getattr(case.inbound, step)(*[b""] * (step == "respond"))
    assert case.state is State.READING


async def test_a_response_to_whoever_is_gone() -> None:
    case = Case(let_in)
    case.inbound.data_received(b"\x03abc")
    request = Request(b"abc", case.inbound)
    case.inbound.stream_failed(ConnectionLost())
    case.inbound.respond(b"answer")
    assert (case.stream.sent, case.host.times_ended) == (b"", 1)
    assert request.peer == PEER
