"""Between peers: questions of one's firewall, answered at another."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from conftest import MakePeer
from support.waiting import begun, next_event, settled

from stronghold_p2p import (
    Direction,
    FirewallRules,
    Keypair,
    PolicyLoaded,
    ProtocolNotSupported,
    RelayServer,
    Rule,
)
from stronghold_p2p.protocols.approval import PROTOCOL, verify

from .conftest import MakeOffice

KEY, OTHER_KEY = Keypair.generate(), Keypair.generate()


async def test_an_approver_lets_a_request_pass(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    passes = await office.request({"type": "Sign", "amount": 5})
    question = await phone.question()
    assert question.asker == office.peer.peer_id
    assert (question.kind, question.direction, question.type) == ("request", Direction.INBOUND, "Sign")
    assert question.view == '{"type":"Sign","amount":5}'
    assert question.address is not None
    assert (question.waiting, question.need, question.agreed) == (1, 1, 0)
    assert 50 < question.expires - asyncio.get_running_loop().time() <= 60
    assert question.approve()
    assert not question.approve()
    assert await passes
    assert await question.ended() == "approved"
    decision = await office.decision()
    assert (decision.allowed, decision.by, decision.how) == (True, f"approver {KEY.peer_id}", "approved")
    (signed,) = decision.signatures
    answer = verify(signed)
    assert (answer.asker, answer.peer, answer.direction, answer.type) == (
        office.peer.peer_id,
        decision.peer,
        Direction.INBOUND,
        "Sign",
    )


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


async def test_what_the_asking_peer_calls_the_requester(make_office: MakeOffice, make_peer: MakePeer) -> None:
    office, alice = await make_office(KEY.peer_id), await make_peer()
    office.peer.set_name(alice.peer_id, "alice")
    phone = await office.phone(KEY)
    passes = await office.request(by=alice)
    question = await phone.question()
    assert (question.name, question.peer) == ("alice", alice.peer_id)
    assert question.approve()
    assert await passes


async def test_a_question_about_a_request_of_ours(make_office: MakeOffice, make_peer: MakePeer) -> None:
    office = await make_office(KEY.peer_id)
    office.peer.set_firewall_default(Rule.ASK, direction=Direction.OUTBOUND)
    phone = await office.phone(KEY)
    bank = await make_peer(firewall=FirewallRules.allow_all())
    bank.on_request(lambda request: "done")
    sending = await begun(office.peer.send_request(await bank.listen(), "pay"))
    question = await phone.question()
    assert (question.peer, question.direction, question.address) == (bank.peer_id, Direction.OUTBOUND, None)
    assert question.approve()
    assert await sending == "done"


# -- what an answer is about -----------------------------------------------------------------------------


async def test_a_type_for_good(make_office: MakeOffice, make_peer: MakePeer) -> None:
    office = await make_office(KEY.peer_id, rules=FirewallRules(outbound=None))
    office.peer.set_firewall_default(Rule.ASK, direction=Direction.INBOUND)
    phone, alice = await office.phone(KEY), await make_peer()
    passes = await office.request({"type": "Sign"}, by=alice)
    question = await phone.question()
    assert question.approve_type()
    assert await passes
    assert await question.ended() == "rule set"
    assert await (await office.request({"type": "Sign"}, by=alice))
    passes = await office.request({"type": "Wipe"}, by=alice)
    assert (await phone.question()).reject()
    assert not await passes


async def test_everything_for_a_time(make_office: MakeOffice, make_peer: MakePeer) -> None:
    office = await make_office(KEY.peer_id, rules=FirewallRules(outbound=None))
    office.peer.set_firewall_default(Rule.ASK, direction=Direction.INBOUND)
    phone, alice = await office.phone(KEY), await make_peer()
    passes = await office.request(by=alice)
    assert (await phone.question()).approve_all(3600)
    assert await passes
    assert await (await office.request({"type": "Wipe"}, by=alice))
    rule = office.peer.get_firewall_config().peers[alice.peer_id][0]
    assert rule is not None
    assert rule.until is not None


async def test_answers_that_cannot_be(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    passes = await office.request()
    question = await phone.question()
    with pytest.raises(ValueError, match="without a type"):
        question.approve_type()
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0"):
            question.approve_all(seconds)
    assert question.approve()
    assert await passes


# -- several approvers -----------------------------------------------------------------------------------


async def test_the_first_answer_counts_and_all_see_the_end(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id)
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request()
    first, second = await phone.question(), await tablet.question()
    assert second.approve()
    assert await passes
    assert await first.ended() == await second.ended() == "approved"
    assert first.by == second.by == f"approver {OTHER_KEY.peer_id}"
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


@pytest.mark.parametrize("by", ["approver", "person"])
async def test_one_rejection_is_enough(make_office: MakeOffice, by: str) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id, need=2)
    local = office.peer.firewall_requests()
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request()
    here, first, second = await anext(local), await phone.question(), await tablet.question()
    assert first.approve()
    assert second.reject() if by == "approver" else here.reject()
    assert not await passes
    assert await first.ended() == "rejected"


async def test_one_approver_counts_once_though_it_is_two_devices(make_office: MakeOffice, make_peer: MakePeer) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id, need=2)
    phone, copy = await office.phone(KEY), await office.phone(KEY)
    passes = await office.request()
    assert (await phone.question()).approve()
    await settled()
    await phone.peer.close()
    assert not await copy.is_asked()
    assert not passes.done()
    passes.cancel()


async def test_the_requester_is_itself_an_approver(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id)
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request(by=tablet.peer)
    question = await phone.question()
    assert question.peer == tablet.peer.peer_id
    assert not await tablet.is_asked()
    assert question.approve()
    assert await passes


@pytest.mark.parametrize("need", [1, 2])
async def test_too_few_are_left_to_ask(make_office: MakeOffice, need: int) -> None:
    others = [OTHER_KEY.peer_id] if need == 2 else []
    office = await make_office(KEY.peer_id, *others, need=need)
    phone = await office.phone(KEY)
    assert not await (await office.request(by=phone.peer))
    assert (await office.decision()).how == "no answerer"


# -- comings and goings ----------------------------------------------------------------------------------


async def test_the_others_are_asked_on_when_a_connection_is_lost(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id, OTHER_KEY.peer_id)
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request()
    first, second = await phone.question(), await tablet.question()
    await phone.peer.disconnect(office.peer.peer_id)
    assert await first.ended() == "lost"
    assert not first.approve()
    assert second.approve()
    assert await passes


async def test_an_open_question_is_offered_again_after_a_reconnect(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    passes = await office.request()
    assert (await phone.question()).outcome is None
    await phone.peer.disconnect(office.peer.peer_id)
    await phone.peer.connect(office.address)
    assert (await phone.question()).approve()
    assert await passes


async def test_an_approver_that_comes_late_gets_the_open_questions(
    make_office: MakeOffice, caplog: pytest.LogCaptureFixture
) -> None:
    office = await make_office(KEY.peer_id)
    passes = await office.request()
    await settled()
    assert "question 1 waits: no approver is connected" in caplog.text
    phone = await office.phone(KEY)
    assert (await phone.question()).approve()
    assert await passes


async def test_an_approver_with_a_known_address_is_dialed(make_office: MakeOffice, make_peer: MakePeer) -> None:
    office = await make_office(KEY.peer_id)
    phone = await make_peer(keypair=KEY)
    requests = phone.approval_requests([office.peer.peer_id])
    office.peer.addresses.add(await phone.listen())
    passes = await office.request()
    assert (await anext(requests)).approve()
    assert await passes


async def test_through_a_relay(make_office: MakeOffice, make_peer: MakePeer) -> None:
    """It forwards what it cannot read, and is asked nothing."""
    relay = await make_peer(relay=RelayServer())
    office = await make_office(KEY.peer_id)
    circuit = await office.peer.listen_via_relay(await relay.listen())
    phone = await make_peer(keypair=KEY)
    requests = phone.approval_requests([office.peer.peer_id])
    await office.connect(phone, circuit)
    assert phone.connections[-1].path.relay == relay.peer_id
    passes = await office.request()
    assert (await anext(requests)).approve()
    assert await passes


async def test_the_asking_peer_closes(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    passes = await office.request()
    question = await phone.question()
    await office.peer.close()
    assert await question.ended() in {"closed", "lost"}
    assert not await passes


async def test_the_approver_closes(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    passes = await office.request()
    question = await phone.question()
    await phone.peer.close()
    assert await question.ended() == "lost"
    with pytest.raises(StopAsyncIteration):
        await phone.question()
    passes.cancel()


async def test_an_iterator_that_is_closed_leaves_its_questions_to_others(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    passes = await office.request()
    question = await phone.question()
    await office.request()
    await settled()
    phone.requests.close()
    assert await question.ended() == "lost"
    with pytest.raises(StopAsyncIteration):
        await phone.question()
    phone.requests.close()
    again = phone.peer.approval_requests([office.peer.peer_id])  # the same connection
    for _ in range(2):
        assert (await anext(again)).approve()
    assert await passes


async def test_an_iterator_that_is_dropped_leaves_what_was_not_read(make_office: MakeOffice) -> None:
    office = await make_office(KEY.peer_id)
    phone = await office.phone(KEY)
    taken, unread = await office.request(), await office.request()
    question = await phone.question()
    await settled()
    del phone.requests
    gc.collect()
    await settled()
    assert question.approve()
    await asyncio.wait((taken, unread), return_when=asyncio.FIRST_COMPLETED)
    again = phone.peer.approval_requests([office.peer.peer_id])
    assert (await anext(again)).approve()
    assert await taken
    assert await unread


# -- who may ask, and who may answer -----------------------------------------------------------------------


async def test_only_the_peers_given_may_ask(make_office: MakeOffice, make_peer: MakePeer) -> None:
    office = await make_office(KEY.peer_id)
    stranger, phone = await make_peer(), await make_peer(keypair=KEY)
    address = await phone.listen()
    requests = phone.approval_requests([office.peer.peer_id])
    with pytest.raises(ProtocolNotSupported):
        await (await stranger.open_stream(address, PROTOCOL)).negotiated()
    requests.close()
    with pytest.raises(ProtocolNotSupported):
        await (await office.peer.open_stream(address, PROTOCOL)).negotiated()


async def test_whose_questions_are_wanted(make_peer: MakePeer) -> None:
    phone = await make_peer()
    with pytest.raises(ValueError, match="got none"):
        phone.approval_requests([])
    requests = phone.approval_requests([KEY.peer_id, str(OTHER_KEY.peer_id)])
    with pytest.raises(RuntimeError, match="already have an iterator"):
        phone.approval_requests([OTHER_KEY.peer_id])
    requests.close()
    phone.approval_requests([OTHER_KEY.peer_id]).close()


async def test_a_reload_makes_and_unmakes_approvers(make_office: MakeOffice, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"

    async def reload(*keys: Keypair) -> None:
        events = office.peer.events()
        file.write_text(policy(*keys))
        await office.peer.reload_policy()
        await next_event(events, PolicyLoaded)

    file.write_text(policy(KEY))
    office = await make_office(policy=file)
    phone, tablet = await office.phone(KEY), await office.phone(OTHER_KEY)
    passes = await office.request()
    first = await phone.question()
    await reload(OTHER_KEY)
    assert await first.ended() == "lost"
    second = await tablet.question()
    assert second.approve()
    assert await passes

    passes = await office.request()
    second = await tablet.question()
    await reload()  # nobody answers any more
    assert not await passes
    assert await second.ended() == "lost"


def policy(*keys: Keypair) -> str:
    approvers = ", ".join(f'"{key.peer_id}"' for key in keys)
    return '[default]\ninbound = "ask"\n' + (f"[approval]\napprovers = [{approvers}]\n" if keys else "")
