"""The signed answers of approvers in an audit: each must be an answer to what the decision says."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from stronghold_p2p import Direction, FirewallDecision, Keypair
from stronghold_p2p.cli.audit.answers import answers_of
from stronghold_p2p.cli.audit.chain import BEGINNING, chained, signed_head
from stronghold_p2p.cli.audit.record import record_of
from stronghold_p2p.cli.audit.verify import Finding, Verifier
from stronghold_p2p.errors import DecodeError
from stronghold_p2p.protocols.approval import ApprovalAnswer, open_answer

OFFICE, PHONE, OTHER = Keypair.generate(), Keypair.generate(), Keypair.generate()
ALICE = Keypair.generate().peer_id
ANSWER = ApprovalAnswer(
    asker=OFFICE.peer_id,
    nonce=bytes(16),
    question=bytes(32),
    kind="request",
    peer=ALICE,
    direction=Direction.INBOUND,
    type="Sign\u202e" + "x" * 190,
    scope="once",
    time=1_800_000_000.0,
)


def a_decision(answer: ApprovalAnswer = ANSWER, approver: Keypair = PHONE, **changes: Any) -> dict[str, Any]:
    """A line of an audit, with an approver's answer."""
    signed, _ = open_answer(answer.seal(approver))
    decision = FirewallDecision(
        id=1,
        peer=ALICE,
        name=None,
        direction=Direction.INBOUND,
        type=ANSWER.type,
        rule="Rule.ASK",
        layer="default",
        line=None,
        allowed=signed.approved,
        by=f"approver {approver.peer_id}",
        how="approved",
        waited=1.0,
        signatures=(signed,),
    )
    record = record_of(decision)
    assert record is not None
    return {**record, **changes}


@pytest.mark.parametrize(
    ("answer", "changes"),
    [
        (ANSWER, {}),
        (replace(ANSWER, scope=None, reason="no\n"), {}),
        (replace(ANSWER, kind="peer"), {"type": "Wipe"}),
    ],
    ids=["approved", "rejected", "another request of the peer"],
)
def test_an_answer_to_what_the_decision_says(answer: ApprovalAnswer, changes: Mapping[str, Any]) -> None:
    assert answers_of(a_decision(answer, **changes)) == [answer]


def test_no_answer() -> None:
    assert answers_of(a_decision(signatures=[])) == answers_of({}) == []


@pytest.mark.parametrize(
    "decision",
    [
        a_decision(peer=str(OTHER.peer_id)),
        a_decision(direction="outbound"),
        a_decision(type="Wipe"),
        a_decision(type=None),
        a_decision(replace(ANSWER, scope=None), allowed=True),
        a_decision(signatures={}),
        a_decision(signatures=["yes"]),
        a_decision(signatures=[{}]),
        a_decision(signatures=[{"envelope": "no base64"}]),
        a_decision(signatures=[{"envelope": base64.b64encode(b"no envelope").decode()}]),
        *(
            a_decision(signatures=[{**a_decision()["signatures"][0], key: value}])
            for key, value in (
                ("approver", str(OTHER.peer_id)),
                ("approved", False),
                ("scope", "all"),
                ("seconds", 60.0),
                ("reason", "no"),
                ("more", 1),
            )
        ),
    ],
)
def test_what_does_not_verify(decision: Mapping[str, Any]) -> None:
    with pytest.raises(DecodeError):
        answers_of(decision)


@pytest.mark.parametrize(
    ("decisions", "problem"),
    [
        ([a_decision()], None),
        ([a_decision(type="Wipe")], "has an answer of an approver that does not verify"),
        ([a_decision(replace(ANSWER, asker=OTHER.peer_id))], "is not signed by who asked the approvers in number 2"),
        ([a_decision(), a_decision()], "has the answer of an approver that was given in number 2, to another request"),
        ([a_decision(), a_decision(replace(ANSWER, nonce=bytes(range(16, 32))))], None),
        ([a_decision(replace(ANSWER, kind="peer"))] * 2, None),
    ],
    ids=["right", "another type", "another asker", "used again", "given again", "for all that waited"],
)
def test_it_is_found_in_a_chain(decisions: Sequence[Mapping[str, Any]], problem: str | None) -> None:
    time = "2026-01-01T00:00:00.000+00:00"
    findings: list[Finding] = []
    verifier = Verifier(findings.append)
    verifier.begin_file("audit")
    after = BEGINNING
    for record in ({"event": "opened"}, *decisions):
        link = chained(after, {"time": time, **record})
        verifier.take(link.line)
        after = link.position
    verifier.take(signed_head(after, time, OFFICE).line)
    verifier.end()
    assert [finding.what.partition(":")[0] for finding in findings] == ([] if problem is None else [problem])
