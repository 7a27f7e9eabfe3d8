"""Between peers: questions of one's firewall answered at another."""

from __future__ import annotations

import pytest

from stronghold_p2p import Direction, Keypair
from stronghold_p2p.protocols.approval import verify

from .conftest import MakeOffice

KEY, OTHER_KEY = Keypair.generate(), Keypair.generate()


async def test_an_approver_is_asked_and_lets_a_request_pass(make_office: MakeOffice) -> None:
    office = await make_office([KEY.peer_id])
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
    office = await make_office([KEY.peer_id])
    phone = await office.phone(KEY)
    passes = await office.request()
    question = await phone.question()
    assert question.reject(reason)
    assert not await passes
    assert await question.ended() == "rejected"
    decision = await office.decision()
    assert (decision.by, decision.how, decision.reason) == (f"approver {KEY.peer_id}", "rejected", reason)
