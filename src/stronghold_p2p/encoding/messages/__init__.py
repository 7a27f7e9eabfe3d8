"""The protobuf messages of the libp2p protocols, and the one place that parses them.

The ``*_pb2`` modules are generated from the ``.proto`` files beside them and committed. To generate them anew, with
grpcio-tools 1.76.0, in the root of the repository::

    python -m grpc_tools.protoc -Isrc --python_out=src --pyi_out=src src/stronghold_p2p/encoding/messages/*.proto

That version, because generated code refuses a protobuf older than its generator: what 1.76.0 generates runs on
protobuf 6.31.1 and everything newer.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import message

from ...errors import DecodeError
from .approval_pb2 import ApprovalAnswer, ApprovalEnd, ApprovalQuestion
from .autonat_pb2 import AutonatMessage, DialBack, DialBackResponse, DialDataRequest, DialResponse
from .circuit_pb2 import CircuitLimit, CircuitPeer, CircuitReservation, HopMessage, StopMessage, Voucher
from .dcutr_pb2 import HolePunch
from .envelope_pb2 import Envelope
from .identify_pb2 import Identify
from .keys_pb2 import PrivateKey, PublicKey
from .noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from .peer_record_pb2 import PeerRecord

__all__ = [
    "ApprovalAnswer",
    "ApprovalEnd",
    "ApprovalQuestion",
    "AutonatMessage",
    "CircuitLimit",
    "CircuitPeer",
    "CircuitReservation",
    "DialBack",
    "DialBackResponse",
    "DialDataRequest",
    "DialResponse",
    "Envelope",
    "HolePunch",
    "HopMessage",
    "Identify",
    "NoiseExtensions",
    "NoiseHandshakePayload",
    "PeerRecord",
    "PrivateKey",
    "PublicKey",
    "StopMessage",
    "Voucher",
    "parse",
]

MessageT = TypeVar("MessageT", bound=message.Message)


def parse(message_type: type[MessageT], data: bytes, protocol: str) -> MessageT:
    """The message of ``message_type`` in ``data``.

    Raises DecodeError of ``protocol`` for what is cut off, lacks a required field, or is no protobuf at all.
    """
    try:
        parsed = message_type.FromString(data)
    except message.DecodeError as error:
        raise DecodeError(protocol, f"{message_type.__name__}: not a protobuf message") from error
    if not parsed.IsInitialized():  # FromString itself takes what lacks a required field, or has an unknown enum value
        raise DecodeError(protocol, f"{message_type.__name__}: a required field is missing")
    return parsed
