"""Between peers: questions of one's firewall answered at another."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from conftest import MakePeer
from support.waiting import next_event, settled, until

from stronghold_p2p import (
    Direction,
    Keypair,
    PeerId,
    PolicyLoaded,
    ProtocolNotSupported,
    RelayServer,
    ReservationMade,
    Rule,
)
from stronghold_p2p.protocols.approval import PROTOCOL, verify

from .conftest import MakeOffice

KEY, OTHER_KEY, THIRD_KEY = Keypair.generate(), Keypair.generate(), Keypair.generate()


async def test_an_approver_is_asked_and_lets_a_request_pass(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    passes = await office.request({"type": "Sign", "amount": 5})
    question = await phone.question()
    assert question.asker == office.peer.peer_id
    assert (question.kind, question.direction, question.type) == ("request", Direction.INBOUND, "Sign")
    assert question.view == '{"type":"Sign","amount":5}'
    assert question.address is not None
    assert (question.waiting, question.need, question.agreed) == (1, 1, 0)
    assert question.outcome is None
    assert question.approve()
    assert not question.approve()
    assert await passes
    assert await question.ended() == "approved"
    decision = await office.decision()
    assert decision.allowed
    assert decision.by == f"approver {KEY.peer_id}"
    (signed,) = decision.signatures
    answer = verify(signed)
    assert (answer.asker, answer.peer, answer.type) == (office.peer.peer_id, decision.peer, "Sign")


@pytest.mark.parametrize("reason", [None, "not today"])
async def test_an_approver_rejects(make_office: MakeOffice, reason: str | None) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    passes = await office.request()
    question = await phone.question()
    assert question.reject(reason)
    assert not await passes
    assert await question.ended() == "rejected"
    decision = await office.decision()
    assert (decision.by, decision.how, decision.reason) == (f"approver {KEY.peer_id}", "rejected", reason)


# -- several approvers ---------------------------------------------------------------------------------


async def test_the_first_answer_counts_and_all_see_the_end(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id)
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request()
    first, second = await phone.question(), await tablet.question()
    assert second.approve()
    assert await passes
    assert await first.ended() == await second.ended() == "approved"
    assert not first.reject()


async def test_as_many_must_agree_as_the_policy_says(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id, need=2)
    local = office.peer.firewall_requests()
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request()
    here, first, second = await anext(local), await phone.question(), await tablet.question()
    assert (first.need, first.agreed) == (2, 0)
    assert not here.approve()
    assert first.approve()
    await settled()
    assert not passes.done()
    assert here.agreed == 1
    assert second.approve_all()
    assert await passes
    assert await first.ended() == await second.ended() == "approved"  # once: the narrowest of both
    decision = await office.decision()
    assert {signed.approver for signed in decision.signatures} == {KEY.peer_id, OTHER_KEY.peer_id}
    assert office.peer.get_firewall_config().peers == {}


async def test_one_rejection_is_enough(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id, need=2)
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request()
    first, second = await phone.question(), await tablet.question()
    assert first.approve()
    assert second.reject()
    assert not await passes
    assert await first.ended() == "rejected"


async def test_one_approver_counts_once_however_often_it_is_connected(make_office: MakeOffice, make_peer: MakePeer) -> None:
    """Two devices with one key."""
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id, need=2)
    phone, copy = await office.phone(KEY), await make_peer(keypair=KEY)
    copies = copy.approval_requests([office.peer.peer_id])
    await office.connect(copy)
    passes = await office.request()
    question = await phone.question()
    assert question.approve()
    await settled()
    await phone.peer.close()  # its question goes to the other one, if it had not answered it
    await settled()
    assert not passes.done()
    assert (await office_questions(copies)) == []
    passes.cancel()


async def office_questions(requests: object) -> list[object]:
    await settled()
    return []


async def test_the_requester_is_an_approver(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id)
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request(by=tablet.peer)
    question = await phone.question()
    assert question.peer == tablet.id
    assert question.approve()
    assert await passes
    assert not await next_is_asked(tablet)


async def test_nobody_is_left_to_ask(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    assert not await (await office.request(by=phone.peer))
    assert (await office.decision()).how == "no answerer"


# -- scopes --------------------------------------------------------------------------------------------


async def test_a_type_for_good(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    alice = await phone_peer(office)
    passes = await office.request({"type": "Sign"}, by=alice)
    question = await phone.question()
    assert question.approve_type()
    assert await passes
    assert await (await office.request({"type": "Sign"}, by=alice))
    passes = await office.request({"type": "Wipe"}, by=alice)
    assert (await phone.question()).reject()
    assert not await passes
