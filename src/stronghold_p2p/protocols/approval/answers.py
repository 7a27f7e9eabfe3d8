"""An approver's answer to a question of another peer's firewall, signed so that it can be verified later, by anybody.

The signature covers what the answer is about, so it is good for no other question, nor for another peer that asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...encoding import messages
from ...errors import DecodeError
from ...events import Direction, QuestionKind, Scope, SignedAnswer
from ...identity import Keypair, PeerId
from ...wire.envelope import open_envelope, seal

__all__ = [
    "DIRECTIONS",
    "KINDS",
    "MAX_REASON",
    "MAX_SECONDS",
    "NONCE_SIZE",
    "NUMBERS_OF_DIRECTIONS",
    "NUMBERS_OF_KINDS",
    "ApprovalAnswer",
    "open_answer",
    "verify",
]

DOMAIN: Final = "stronghold-p2p-approval"
PAYLOAD_TYPE: Final = b"/stronghold-p2p/approval-answer"

NONCE_SIZE: Final = 16
"""Bytes, random for each time that a question is sent."""

HASH_SIZE: Final = 32
"""Bytes of the SHA-256 of a question as it was sent."""

MAX_REASON: Final = 200
"""Characters of why something is rejected: a sentence, for the audit and for the requester."""

MAX_SECONDS: Final = 366 * 86_400.0
"""The longest time for which an approval may last; without a time it lasts for good."""

KINDS: Final[dict[int, QuestionKind]] = {1: "peer", 2: "request"}
NUMBERS_OF_KINDS: Final = {kind: number for number, kind in KINDS.items()}
SCOPES: Final[dict[int, Scope | None]] = {1: "once", 2: "type", 3: "all", 4: None}
"""What is approved, by its number on the wire; None: nothing."""
NUMBERS_OF_SCOPES: Final = {scope: number for number, scope in SCOPES.items()}
DIRECTIONS: Final = {1: Direction.INBOUND, 2: Direction.OUTBOUND}
NUMBERS_OF_DIRECTIONS: Final = {direction: number for number, direction in DIRECTIONS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAnswer:
    """What an approver signs."""

    asker: PeerId
    """Whose firewall asked."""
    nonce: bytes
    """That of the question: 16 random bytes."""
    question: bytes
    """The SHA-256 of the question as it was sent."""
    kind: QuestionKind
    """Of a question about a peer, :attr:`type` is that of the first of its requests; others wait for the same answer."""
    peer: PeerId
    """Whose request, or to whom, it is about."""
    direction: Direction
    type: str | None
    scope: Scope | None
    """What is approved; None: it is rejected."""
    seconds: float | None = None
    """How long an approval with a scope beyond ``"once"`` lasts; None: for good."""
    reason: str | None = None
    """Of a rejection, if one was given."""
    time: float
    """When it was given by the approver's clock, in seconds since the epoch."""

    def seal(self, keypair: Keypair) -> bytes:
        """A signed envelope with the answer; ``keypair`` is the approver's."""
        message = messages.ApprovalAnswer(
            asker=self.asker.to_bytes(),
            nonce=self.nonce,
            question=self.question,
            peer=self.peer.to_bytes(),
            direction=NUMBERS_OF_DIRECTIONS[self.direction],
            type=self.type,
            scope=NUMBERS_OF_SCOPES[self.scope],
            milliseconds=None if self.seconds is None else max(round(self.seconds * 1000), 1),
            reason=self.reason or "",
            time=round(self.time * 1000),
            kind=NUMBERS_OF_KINDS[self.kind],
        )
        return seal(keypair, DOMAIN, PAYLOAD_TYPE, message.SerializeToString())


def open_answer(envelope: bytes) -> tuple[SignedAnswer, ApprovalAnswer]:
    """An answer as it is kept, and all that its approver has signed.

    Raises:
        DecodeError: malformed, or not signed by the key in it.
    """
    key, payload = open_envelope(envelope, DOMAIN, PAYLOAD_TYPE)
    message = messages.parse(messages.ApprovalAnswer, payload, "approval")
    if len(message.nonce) != NONCE_SIZE or len(message.question) != HASH_SIZE:
        raise DecodeError("approval", "an answer to no question")
    if message.kind not in KINDS or message.direction not in DIRECTIONS or message.scope not in SCOPES:
        raise DecodeError("approval", "an answer of an unknown kind, direction or scope")
    seconds = message.milliseconds / 1000 if message.HasField("milliseconds") else None
    if len(message.reason) > MAX_REASON or not (seconds is None or 0 < seconds <= MAX_SECONDS):
        raise DecodeError(
            "approval", f"its reason has over {MAX_REASON} characters, or it is for 0 or too many seconds"
        )
    scope = SCOPES[message.scope]
    answer = ApprovalAnswer(
        asker=PeerId.from_bytes(message.asker),
        nonce=message.nonce,
        question=message.question,
        kind=KINDS[message.kind],
        peer=PeerId.from_bytes(message.peer),
        direction=DIRECTIONS[message.direction],
        type=message.type if message.HasField("type") else None,
        scope=scope,
        seconds=seconds,
        reason=message.reason or None,
        time=message.time / 1000,
    )
    signed = SignedAnswer(key.peer_id, scope is not None, scope or "once", seconds, answer.reason, envelope)
    return signed, answer


def verify(signed: SignedAnswer) -> ApprovalAnswer:
    """What an approver has signed. Needs nothing but the answer itself: compare with it what it should be about.

    Raises:
        DecodeError: malformed, not signed by :attr:`SignedAnswer.approver`, or not what ``signed`` says.
    """
    opened, answer = open_answer(signed.envelope)
    if opened != signed:
        raise DecodeError("approval", f"what {opened.approver} has signed is not what is told of it")
    return answer
