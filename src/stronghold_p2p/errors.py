"""Every error this library raises, as one tree.

StrongholdError
├── ClosedError                 our peer is not started, or closed
├── InvalidAddress              the caller's address cannot be used
├── ListenError                 an address cannot be listened on
├── KeyFileError                a key file cannot be read or written
├── CertificateError            a file of certificates, or of a certificate's key, cannot be used
├── PolicyError                 a policy file says what it cannot
├── StateError                  a state file cannot be used
├── EncodeError                 the caller's value cannot be sent
├── NotPermitted                our own firewall or a ban said no; not a byte left
├── LimitExceeded               a limit of our own configuration struck
├── DialError                   no connection; ``attempts`` holds each address with its reason and its time
├── RequestTimeout              the time is up
├── ConnectionLost              the connection went away under a stream
├── ProtocolNotSupported        the remote does not offer the protocol, or not to us
├── NoResponse                  closed in order without one byte of response
├── StreamReset                 the remote reset the stream
└── RemoteProtocolError         the remote broke a rule of a protocol
    ├── TlsError                of TLS under a WebSocket: a certificate that is not valid, or no TLS at all
    ├── WebSocketError          of WebSocket, or of its HTTP handshake
    ├── NegotiationError        of multistream-select
    ├── HandshakeError          of Noise, or of its libp2p payload
    │   └── PeerIdMismatch      the remote is not the peer that was dialed
    ├── MuxerError              of Yamux
    └── DecodeError             bytes that are not what they should be: varint, protobuf, JSON, MessagePack

What the remote did wrong is a :class:`RemoteProtocolError`; every other branch names its culprit
above. Match types, never messages: what an error says is in its attributes too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .events import DialAttempt
    from .identity import PeerId
    from .multiaddr import Multiaddr

__all__ = [
    "CertificateError",
    "ClosedError",
    "ConnectionLost",
    "DecodeError",
    "DialError",
    "EncodeError",
    "HandshakeError",
    "InvalidAddress",
    "KeyFileError",
    "LimitExceeded",
    "ListenError",
    "MuxerError",
    "NegotiationError",
    "NoResponse",
    "NotPermitted",
    "PeerIdMismatch",
    "PolicyError",
    "ProtocolNotSupported",
    "RemoteProtocolError",
    "RequestTimeout",
    "StateError",
    "StreamReset",
    "StrongholdError",
    "TlsError",
    "WebSocketError",
]


class StrongholdError(Exception):
    """The root of the tree. An error can be copied and pickled, and so reaches whoever waits for another process."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Not as Python does it, by a call of the class with the text: each class takes arguments of its own.
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[StrongholdError], args: tuple[Any, ...]) -> StrongholdError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ClosedError(StrongholdError):
    """The peer has not been started, or is closed."""

    def __init__(self, reason: str = "the peer is not running: use `async with`, or `await start()`") -> None:
        super().__init__(reason)


class InvalidAddress(StrongholdError, ValueError):
    """An address is malformed, lacks the ``/p2p/`` part where a peer must be known, or is our own."""

    def __init__(self, address: object, reason: str) -> None:
        super().__init__(f"invalid address {str(address)!r}: {reason}")
        self.address = str(address)
        self.reason = reason


class ListenError(StrongholdError, OSError):
    """An address cannot be listened on: in use, not ours, or of an unsupported kind."""

    def __init__(self, address: Multiaddr | str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = str(address)
        self.reason = reason


class KeyFileError(StrongholdError):
    """A key file is missing, damaged, in the way, or the passphrase does not fit."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"key file {path}: {reason}")
        self.path = str(path)
        self.reason = reason


class CertificateError(StrongholdError):
    """A file of certificates for TLS, or of a certificate's private key, is missing, or holds something else."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"certificate file {path}: {reason}")
        self.path = str(path)
        self.reason = reason


class PolicyError(StrongholdError, ValueError):
    """A policy file is missing, no TOML, or says what it cannot. ``line`` counts from 1, 0 if it is no line's fault; ``key``
    is the dotted key, empty if it is no key's."""

    def __init__(self, path: object, line: int, key: str, reason: str) -> None:
        where = f"policy {path}" + (f", line {line}" if line else "") + (f", {key}" if key else "")
        super().__init__(f"{where}: {reason}")
        self.path = str(path)
        self.line = line
        self.key = key
        self.reason = reason


class StateError(StrongholdError):
    """A state file cannot be read or written, or is not one."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"state file {path}: {reason}")
        self.path = str(path)
        self.reason = reason


class EncodeError(StrongholdError, ValueError):
    """A value of ours cannot be sent: its type, or its size."""


class NotPermitted(StrongholdError, PermissionError):
    """Our own firewall, a ban or a policy forbids it. Nothing was sent, nothing was dialed. ``peer`` is None if it is
    about an address, before anybody has proved who is there."""

    def __init__(self, peer: PeerId | None, reason: str) -> None:
        super().__init__(f"not permitted{f' for peer {peer}' if peer else ''}: {reason}")
        self.peer = peer
        self.reason = reason


class LimitExceeded(StrongholdError):
    """A limit of our own struck; ``limit`` is the field of :class:`Config` that set it."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"Config.{limit} is reached")
        self.limit = limit


class DialError(StrongholdError, ConnectionError):
    """No connection to a peer could be made.

    ``attempts`` lists every address, each with the exception that ended it and the time that it took.
    """

    def __init__(
        self,
        peer: PeerId,
        attempts: Sequence[DialAttempt] = (),
        reason: str | None = None,
    ) -> None:
        tried = "; ".join(f"{address}: {error} ({seconds:.2f} s)" for address, error, seconds in attempts)
        super().__init__(f"cannot dial {peer}: {reason or tried or 'no address is known'}")
        self.peer = peer
        self.attempts = tuple(attempts)


class RequestTimeout(StrongholdError, TimeoutError):
    """The time for an operation is up. ``timeout`` is in seconds."""

    def __init__(self, timeout: float, what: str = "request") -> None:
        super().__init__(f"the {what} did not end within {timeout:g} s")
        self.timeout = timeout


class ConnectionLost(StrongholdError, ConnectionError):
    """The connection went away under a stream; whether a request on it was handled is unknown."""

    def __init__(self, reason: str = "closed by the remote") -> None:
        super().__init__(f"connection lost: {reason}")
        self.reason = reason


class ProtocolNotSupported(StrongholdError):
    """The remote does not offer the protocol, or not to us. ``code`` is the one with which it has refused the whole
    connection (0x1007: we are banned; 0x1001: it has too many), 0 if it has not."""

    def __init__(self, protocol: str, code: int = 0) -> None:
        refused = f": it refuses the connection with code {code:#x}" if code else ""
        super().__init__(f"the remote does not offer {protocol} to us{refused}")
        self.protocol = protocol
        self.code = code


class NoResponse(StrongholdError):
    """The stream was closed in order without one byte of response: rejected, or declined."""

    def __init__(self, peer: PeerId) -> None:
        super().__init__(f"{peer} closed the request without a response: rejected, or declined")
        self.peer = peer


class StreamReset(StrongholdError, ConnectionError):
    """The remote reset the stream: it failed, or was over a limit. ``code`` is its error code, 0 if it gave none."""

    def __init__(self, code: int = 0) -> None:
        super().__init__("the remote reset the stream" + (f" with code {code}" if code else ""))
        self.code = code


class RemoteProtocolError(StrongholdError):
    """The remote broke a rule of ``protocol``; ``reason`` says which."""

    def __init__(self, protocol: str, reason: str) -> None:
        super().__init__(f"{protocol}: {reason}")
        self.protocol = protocol
        self.reason = reason


class TlsError(RemoteProtocolError):
    """The remote's certificate is not valid, the handshake of TLS failed, or the remote does not speak TLS."""

    def __init__(self, reason: str) -> None:
        super().__init__("tls", reason)


class WebSocketError(RemoteProtocolError):
    """The HTTP handshake of a WebSocket failed, or a frame breaks the protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__("websocket", reason)


class NegotiationError(RemoteProtocolError):
    """A line of multistream-select is malformed, too long, or out of place."""

    def __init__(self, reason: str) -> None:
        super().__init__("multistream-select", reason)


class HandshakeError(RemoteProtocolError):
    """The Noise handshake failed: a message that is short, altered or replayed, or a payload that does not verify."""

    def __init__(self, reason: str) -> None:
        super().__init__("noise", reason)


class PeerIdMismatch(HandshakeError):
    """The remote proved to be ``actual``, not the peer ``expected`` that was dialed."""

    def __init__(self, expected: PeerId, actual: PeerId) -> None:
        super().__init__(f"dialed {expected}, but the remote is {actual}")
        self.expected = expected
        self.actual = actual


class MuxerError(RemoteProtocolError):
    """A Yamux frame breaks the protocol; the session ends with Go Away ``code``."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__("yamux", reason)
        self.code = code


class DecodeError(RemoteProtocolError):
    """Bytes from the remote are not a valid varint, protobuf message, or message of the codec."""
