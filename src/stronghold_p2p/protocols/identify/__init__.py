"""Identify and identify push: what a peer tells of itself (libp2p/specs identify/README.md)."""

from .message import AGENT_VERSION, PROTOCOL, PROTOCOL_VERSION, PUSH_PROTOCOL, Identity, is_own_agent
from .service import IdentifyService

__all__ = [
    "AGENT_VERSION",
    "PROTOCOL",
    "PROTOCOL_VERSION",
    "PUSH_PROTOCOL",
    "IdentifyService",
    "Identity",
    "is_own_agent",
]
