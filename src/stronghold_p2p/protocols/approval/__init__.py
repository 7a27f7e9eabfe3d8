"""Approval from another device: questions of one peer's firewall, answered at another peer.

Each question is a stream from the peer that asks to an approver: the question, then the approver's signed answer, then how the
question has ended. A stream that ends before says that the question has, or that the approver does not answer it.
"""

from .answers import ApprovalAnswer, verify
from .approving import ApprovalRequest, ApprovalRequests, Approving
from .asking import Asking
from .question import PROTOCOL

__all__ = ["PROTOCOL", "ApprovalAnswer", "ApprovalRequest", "ApprovalRequests", "Approving", "Asking", "verify"]
