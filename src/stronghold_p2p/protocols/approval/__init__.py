"""Approval from another device: questions of one peer's firewall, answered at another peer.

Each question is a stream from the peer that asks to an approver, with three messages, each behind its length: the question,
the approver's answer in a signed envelope, and how the question has ended. The last one comes without an answer, too. A stream
that ends before says that the peer asks no more, or that the approver does not answer.
"""

from .answers import ApprovalAnswer, open_answer, verify
from .approving import ApprovalRequest, ApprovalRequests, Approving
from .asking import Asking
from .question import PROTOCOL

__all__ = [
    "PROTOCOL",
    "ApprovalAnswer",
    "ApprovalRequest",
    "ApprovalRequests",
    "Approving",
    "Asking",
    "open_answer",
    "verify",
]
