"""Signed answers: what they say, and what is none."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p import DecodeError, Direction, Keypair, SignedAnswer
from stronghold_p2p.protocols.approval import ApprovalAnswer, verify
from stronghold_p2p.protocols.approval.answers import MAX_REASON, MAX_SECONDS, open_answer
from stronghold_p2p.protocols.approval.asking import MAX_ANSWER

KEYS = [
    Keypair.generate(),
    Keypair(rsa.generate_private_key(65537, 2048)),
    Keypair(ec.generate_private_key(ec.SECP256R1())),
    Keypair(ec.generate_private_key(ec.SECP256K1())),
]
KEY, OTHER_KEY = KEYS[0], Keypair.generate()
ANSWER = ApprovalAnswer(
    asker=OTHER_KEY.peer_id,
    nonce=bytes(range(16)),
    question=bytes(range(32)),
    kind="request",
    peer=KEYS[1].peer_id,
    direction=Direction.INBOUND,
    type="Sign",
    scope="type",
    seconds=3600.0,
    reason=None,
    time=1_800_000_000.125,
)


@pytest.mark.parametrize("keypair", KEYS, ids=["ed25519", "rsa", "ecdsa", "secp256k1"])
@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, (True, "type", 3600.0, None)),
        ({"scope": "once", "seconds": None, "type": None}, (True, "once", None, None)),
        ({"scope": "all", "seconds": None, "direction": Direction.OUTBOUND, "kind": "peer"}, (True, "all", None, None)),
        ({"scope": None, "seconds": None, "reason": "no"}, (False, "once", None, "no")),
        ({"seconds": 0.0001}, (True, "type", 0.001, None)),
    ],
    ids=["type", "once", "all", "rejected", "a moment"],
)
def test_it_can_be_verified_by_itself(
    keypair: Keypair, changes: dict[str, Any], kept: tuple[bool, str, float | None, str | None]
) -> None:
    answer = replace(ANSWER, **changes)
    signed, opened = open_answer(answer.seal(keypair))
    assert opened == replace(answer, seconds=kept[2])
    assert signed.approver == keypair.peer_id
    assert (signed.approved, signed.scope, signed.seconds, signed.reason) == kept
    assert verify(signed) == opened


def test_the_longest_is_read() -> None:
    answer = replace(ANSWER, type="\U0001f511" * 200, scope=None, reason="\U0001f511" * MAX_REASON)
    assert len(answer.seal(Keypair(rsa.generate_private_key(65537, 4096)))) + 1100 < MAX_ANSWER


@pytest.mark.parametrize(
    "changes",
    [
        {"approver": OTHER_KEY.peer_id},
        {"approved": False},
        {"scope": "all"},
        {"seconds": None},
        {"reason": "why not"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_told_of_it_must_be_what_was_signed(changes: dict[str, Any]) -> None:
    signed, _ = open_answer(ANSWER.seal(KEY))
    with pytest.raises(DecodeError, match="is not what is told"):
        verify(replace(signed, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": bytes(15)},
        {"question": b""},
        {"seconds": MAX_SECONDS + 1},
        {"reason": "x" * (MAX_REASON + 1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_beyond_the_limits(changes: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        open_answer(replace(ANSWER, **changes).seal(KEY))


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_can_be_changed(at: int, bit: int) -> None:
    envelope = bytearray(ANSWER.seal(KEY))
    envelope[at % len(envelope)] ^= 1 << bit
    with suppress(DecodeError):
        signed, answer = open_answer(bytes(envelope))
        assert (signed.approver, answer) == (KEY.peer_id, ANSWER)


@given(st.binary())
def test_noise_is_no_answer(noise: bytes) -> None:
    with pytest.raises(DecodeError):
        verify(SignedAnswer(KEY.peer_id, True, "once", None, None, noise))
