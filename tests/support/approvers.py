"""Approvers of a firewall's questions, without a network: who they are, what they are asked, what they sign."""

from __future__ import annotations

from dataclasses import dataclass, field

from stronghold_p2p import PeerId, SignedAnswer
from stronghold_p2p.events import Scope
from stronghold_p2p.firewall.questions import Question

__all__ = ["PHONE", "TABLET", "WATCH", "Approvers", "Collector", "no", "yes"]

PHONE, TABLET, WATCH = [PeerId.from_bytes(b"\x12\x20" + bytes([number] * 32)) for number in range(1, 4)]


@dataclass
class Approvers:
    """A quorum that a test changes."""

    need: int
    members: set[PeerId] = field(default_factory=lambda: {PHONE, TABLET, WATCH})

    def includes(self, approver: PeerId, peer: PeerId) -> bool:
        return approver in self.members and approver != peer


class Collector:
    """An answerer that keeps the questions for approvers."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def take(self, question: Question) -> bool:
        self.questions.append(question)
        return True

    def drop(self, question: Question) -> None: ...

    def close(self) -> None: ...


def yes(approver: PeerId, scope: Scope = "once", seconds: float | None = None) -> SignedAnswer:
    return SignedAnswer(approver, True, scope, seconds, None, b"signed")


def no(approver: PeerId, reason: str | None = None) -> SignedAnswer:
    return SignedAnswer(approver, False, "once", None, reason, b"signed")
