"""End-to-end encrypted requests between peers, on the libp2p protocols, behind a firewall for every request."""

import logging

from .addresses.book import AddressBook
from .addresses.entry import AddressEntry, AddressSource
from .config import Config
from .errors import (
    ClosedError,
    ConnectionLost,
    DecodeError,
    DialError,
    EncodeError,
    HandshakeError,
    InvalidAddress,
    KeyFileError,
    LimitExceeded,
    ListenError,
    MuxerError,
    NegotiationError,
    NoResponse,
    NotPermitted,
    PeerIdMismatch,
    PolicyError,
    ProtocolNotSupported,
    RemoteProtocolError,
    RequestTimeout,
    StateError,
    StreamReset,
    StrongholdError,
)
from .events import (
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionInfo,
    DialAttempt,
    Direction,
    Dropped,
    Event,
    FirewallDecision,
    InboundConnectionFailed,
    Listener,
    ListenerClosed,
    NewListener,
    Path,
    PathLimits,
    PeerIdentified,
    PolicyFailed,
    PolicyLoaded,
    RequestFailed,
    StateFailed,
)
from .firewall.approvals import FirewallRequest
from .firewall.policy import Policy
from .firewall.rules import FirewallRules, Rule
from .identity import Keypair, KeyType, PeerId, PublicKey
from .multiaddr import Multiaddr
from .peer import StrongholdP2p
from .requests import Request
from .transport.stream import Stream

__all__ = [
    "AddressBook",
    "AddressEntry",
    "AddressSource",
    "ClosedError",
    "Config",
    "ConnectionClosed",
    "ConnectionEstablished",
    "ConnectionInfo",
    "ConnectionLost",
    "DecodeError",
    "DialAttempt",
    "DialError",
    "Direction",
    "Dropped",
    "EncodeError",
    "Event",
    "FirewallDecision",
    "FirewallRequest",
    "FirewallRules",
    "HandshakeError",
    "InboundConnectionFailed",
    "InvalidAddress",
    "KeyFileError",
    "KeyType",
    "Keypair",
    "LimitExceeded",
    "ListenError",
    "Listener",
    "ListenerClosed",
    "Multiaddr",
    "MuxerError",
    "NegotiationError",
    "NewListener",
    "NoResponse",
    "NotPermitted",
    "Path",
    "PathLimits",
    "PeerId",
    "PeerIdMismatch",
    "PeerIdentified",
    "Policy",
    "PolicyError",
    "PolicyFailed",
    "PolicyLoaded",
    "ProtocolNotSupported",
    "PublicKey",
    "RemoteProtocolError",
    "Request",
    "RequestFailed",
    "RequestTimeout",
    "Rule",
    "StateError",
    "StateFailed",
    "Stream",
    "StreamReset",
    "StrongholdError",
    "StrongholdP2p",
]

logging.getLogger("stronghold_p2p").addHandler(logging.NullHandler())
