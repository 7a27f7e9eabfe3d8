"""The side that approves, and askers of every kind."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from conftest import MakePeer
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import begun, settled

from stronghold_p2p import (
    ApprovalRequest,
    ApprovalRequests,
    DecodeError,
    Direction,
    Keypair,
    Multiaddr,
    Stream,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.protocols.approval import PROTOCOL, approving
from stronghold_p2p.protocols.approval.answers import open_answer
from stronghold_p2p.protocols.approval.question import MAX_MESSAGE, ApprovalQuestion, view_text
from stronghold_p2p.protocols.framing import read_bytes, write, write_bytes

KEY = Keypair.generate()
ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id


def a_question(**changes: Any) -> ApprovalQuestion:
    given: dict[str, Any] = {
        "nonce": bytes(16),
        "kind": "request",
        "peer": ALICE,
        "name": "alice",
        "address": Multiaddr.parse("/ip4/192.0.2.1/tcp/1"),
        "direction": Direction.INBOUND,
        "type": "Sign",
        "view": "{}",
        "seconds": 60.0,
        "waiting": 1,
        "need": 1,
        "agreed": 0,
        **changes,
    }
    return ApprovalQuestion(**given)


class Asker:
    """A peer that asks by hand."""

    def __init__(self, peer: StrongholdP2p[Any, Any], phone: Multiaddr) -> None:
        self.peer = peer
        self._phone = phone

    async def open(self) -> Stream:
        stream = await self.peer.open_stream(self._phone, PROTOCOL)
        await stream.negotiated()
        return stream

    async def ask(self, **changes: Any) -> Stream:
        stream = await self.open()
        await write_bytes(stream, a_question(**changes).encode())
        return stream


class Scene:
    def __init__(self, asker: Asker, requests: ApprovalRequests, phone: StrongholdP2p[Any, Any]) -> None:
        self.asker = asker
        self.requests = requests
        self.phone = phone

    async def question(self) -> ApprovalRequest:
        return await anext(self.requests)


@pytest.fixture
async def scene(make_peer: MakePeer) -> Scene:
    office, phone = await make_peer(), await make_peer(keypair=KEY)
    address = await phone.listen()
    return Scene(Asker(office, address), phone.approval_requests([office.peer_id]), phone)


async def test_what_an_asker_tells(scene: Scene) -> None:
    stream = await scene.asker.ask(waiting=3, need=2, agreed=1)
    question = await scene.question()
    assert (question.id, question.asker, question.peer) == (1, scene.asker.peer.peer_id, ALICE)
    assert (question.name, str(question.address)) == ("alice", "/ip4/192.0.2.1/tcp/1")
    assert (question.kind, question.direction, question.type, question.view) == (
        "request",
        Direction.INBOUND,
        "Sign",
        "{}",
    )
    assert (question.waiting, question.need, question.agreed) == (3, 2, 1)
    assert "{}" not in repr(question)
    await write(stream, messages.ApprovalEnd(outcome="rejected", by="person", reason="no"))
    assert await question.ended() == "rejected"
    assert (question.by, question.reason) == ("person", "no")


async def test_a_signed_answer(scene: Scene) -> None:
    stream = await scene.asker.ask()
    assert (await scene.question()).reject("x" * 1000)
    signed, answer = open_answer(await read_bytes(stream, max_size=4096))
    assert (signed.approver, signed.approved, signed.reason) == (KEY.peer_id, False, "x" * 199 + "…")
    assert (answer.asker, answer.peer, answer.type) == (scene.asker.peer.peer_id, ALICE, "Sign")
    await stream.close()


async def test_questions_come_by_turns_of_those_they_are_about(scene: Scene) -> None:
    streams = [await scene.asker.ask(type=str(number)) for number in range(5)]
    streams.append(await scene.asker.ask(peer=BOB, type="b"))
    await settled()
    order = [(await scene.question()).type for _ in streams]
    assert order.index("b") == 1
    for stream in streams:
        stream.reset()


async def test_a_flood(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than so many are refused, and places become free."""
    monkeypatch.setattr(approving, "MAX_OPEN", 8)
    streams = [await scene.asker.ask() for _ in range(approving.MAX_OPEN - 1)]
    last = await scene.asker.ask(type="last")
    questions = [await scene.question() for _ in range(approving.MAX_OPEN)]
    with pytest.raises(StreamReset):
        await (await scene.asker.ask()).read()
    last.reset()
    (ended,) = [question for question in questions if question.type == "last"]
    assert await ended.ended() == "lost"
    streams.append(await scene.asker.ask(type="new"))
    assert (await scene.question()).type == "new"
    assert not await pending(scene)
    for stream in streams:
        stream.reset()


async def pending(scene: Scene) -> bool:
    """Whether there is another question."""
    question = await begun(scene.question())
    await settled()
    return question.done() or not question.cancel()


@pytest.mark.parametrize(
    "sent",
    [
        varint.encode(MAX_MESSAGE + 1),
        varint.encode(1_000_000) + bytes(1_000_000),
        b"\xff" * 20,
        b"\x04nope",
        varint.encode(0),
        *(
            varint.encode(len(encoded)) + encoded
            for encoded in (
                a_question(nonce=bytes(15)).encode(),
                a_question(type="x" * 201).encode(),
                a_question(peer=KEY.peer_id).encode(),
            )
        ),
    ],
    ids=["too long", "a million bytes", "no length", "no message", "empty", "nonce", "type", "about the approver"],
)
async def test_what_is_no_question(scene: Scene, sent: bytes) -> None:
    stream = await scene.asker.open()
    with suppress(StreamReset):
        await stream.write(sent)
    with pytest.raises(StreamReset):
        await stream.read()
    assert not await pending(scene)


async def test_what_comes_after_a_question(scene: Scene) -> None:
    stream = await scene.asker.ask()
    question = await scene.question()
    await stream.write(bytes(100_000))
    assert await question.ended() == "lost"
    assert not question.approve()
    stream.reset()


@pytest.mark.parametrize("outcome", ["", "approved!", "lost", "\x1b[31m"])
async def test_an_end_that_is_none_is_not_believed(scene: Scene, outcome: str) -> None:
    stream = await scene.asker.ask()
    question = await scene.question()
    await write(stream, messages.ApprovalEnd(outcome=outcome))
    assert await question.ended() == "lost"
    stream.reset()


async def test_an_asker_that_never_ends_its_question(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approving, "PATIENCE", 0.0)
    stream = await scene.asker.ask(seconds=0.0)
    with suppress(StreamReset):
        assert await stream.read() == b""
    stream.reset()
    assert not await pending(scene)


async def test_an_asker_that_asks_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approving, "READ_TIMEOUT", 0.01)
    stream = await scene.asker.open()
    with pytest.raises(StreamReset):
        await stream.read()


# -- texts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "text"),
    [
        ({"a": 1}, '{"a":1}'),
        (b"a\xff\n", "a\\xff\n"),
        ("\x1b[31m", '"\\u001b[31m"'),
        (object(), '"object"'),
        (["\udcff"], "list"),
        (None, "null"),
    ],
)
def test_views_as_text(view: object, text: str) -> None:
    assert view_text(view) == text


def test_a_view_without_an_end() -> None:
    view: list[Any] = []
    view.append(view)
    assert view_text(view) == "list"


@pytest.mark.parametrize("text", ["x" * 5000, "\U0001f511" * 5000, "\udcff" * 5000, "\u202e" * 5000])
def test_texts_are_cut(text: str) -> None:
    encoded = a_question(name=text, view=text).encode()
    assert len(encoded) < MAX_MESSAGE
    decoded = ApprovalQuestion.decode(encoded)
    assert decoded.name is not None
    assert (len(decoded.name), len(decoded.view)) == (100, 2000)
    assert decoded.name[-1] == decoded.view[-1] == "…"


def test_an_address_that_is_too_long_is_left_out() -> None:
    address = Multiaddr.parse("/dns4/" + "a" * 250 + "/tcp/1")
    assert ApprovalQuestion.decode(a_question(address=address).encode()).address == address
    address = address.encapsulate(address).encapsulate(address)
    assert ApprovalQuestion.decode(a_question(address=address).encode()).address is None
    message = messages.ApprovalQuestion.FromString(a_question().encode())
    message.address = address.to_bytes()
    with pytest.raises(DecodeError, match="an address of over"):
        ApprovalQuestion.decode(message.SerializeToString())


def test_of_a_remote_texts_are_cut_too() -> None:
    message = messages.ApprovalQuestion.FromString(a_question().encode())
    message.view = message.name = "x" * 5000
    decoded = ApprovalQuestion.decode(message.SerializeToString())
    assert (len(decoded.name or ""), len(decoded.view)) == (100, 2000)


@given(st.binary())
def test_noise(noise: bytes) -> None:
    with suppress(DecodeError):
        ApprovalQuestion.decode(noise)
