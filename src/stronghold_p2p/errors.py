"""Every error this library raises, as one tree.

StrongholdError
├── ClosedError                 this peer is not started, or closed
├── InvalidAddress              unusable address in a call
├── InvalidName                 unusable name for a peer in a call
├── ListenError                 cannot listen on an address
├── KeyFileError                unusable key file
├── CertificateError            unusable certificate file, or unusable private key of a certificate
├── PolicyError                 invalid policy file
├── StateError                  unusable state file
├── AddressBookError            unusable export of an address book
├── PortMappingError            a router maps no port for us
├── EncodeError                 unencodable or oversized value in a call
├── NotPermitted                refused by our own firewall or a ban; nothing was sent
├── LimitExceeded               a limit of our own configuration is reached
├── DialError                   no connection; ``attempts`` lists each address, its error and its duration
├── RelayRefused                a relay refused a reservation or a circuit; ``status`` is its own
├── RequestTimeout              the time limit is reached
├── ConnectionLost              the connection ended under a stream
├── ProtocolNotSupported        the remote does not offer the protocol, or not to us
├── NoResponse                  the remote closed the stream without a response
├── StreamReset                 the remote reset the stream
└── RemoteProtocolError         protocol violation by the remote
    ├── TlsError                TLS under a WebSocket: invalid certificate, failed handshake, or no TLS
    ├── WebSocketError          WebSocket, or its HTTP handshake
    ├── NegotiationError        multistream-select
    ├── HandshakeError          Noise, or its libp2p payload
    │   └── PeerIdMismatch      the remote is not the dialed peer
    ├── MuxerError              Yamux
    └── DecodeError             malformed varint, protobuf, JSON or MessagePack

A protocol violation by the remote is a :class:`RemoteProtocolError`. Match types, never messages: the attributes hold
the details.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import reset_codes

if TYPE_CHECKING:
    from .events import DialAttempt, Path
    from .identity import PeerId
    from .multiaddr import Multiaddr

__all__ = [
    "AddressBookError",
    "CertificateError",
    "ClosedError",
    "ConnectionLost",
    "DecodeError",
    "DialError",
    "EncodeError",
    "HandshakeError",
    "InvalidAddress",
    "InvalidName",
    "KeyFileError",
    "LimitExceeded",
    "ListenError",
    "MuxerError",
    "NegotiationError",
    "NoResponse",
    "NotPermitted",
    "PeerIdMismatch",
    "PolicyError",
    "PortMappingError",
    "ProtocolNotSupported",
    "RelayRefused",
    "RemoteProtocolError",
    "RequestTimeout",
    "StateError",
    "StreamReset",
    "StrongholdError",
    "TlsError",
    "WebSocketError",
]


class StrongholdError(Exception):
    """The base class of all errors. Errors can be copied and pickled, for example across a process pool."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Python's default calls the class with the text, but each class has a signature of its own.
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


class InvalidName(StrongholdError, ValueError):
    """A name cannot be given to a peer: it is not a name, or another peer has it, or one that looks like it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"name {name!r}: {reason}")
        self.name = name
        self.reason = reason


class ListenError(StrongholdError, OSError):
    """Cannot listen on an address: it is in use, not of this machine, or unsupported."""

    def __init__(self, address: Multiaddr | str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = str(address)
        self.reason = reason


class KeyFileError(StrongholdError):
    """A key file is missing, damaged or already there, or the passphrase is wrong."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"key file {path}: {reason}")
        self.path = str(path)
        self.reason = reason


class CertificateError(StrongholdError):
    """A TLS certificate file, or the file of its private key, is missing or invalid."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"certificate file {path}: {reason}")
        self.path = str(path)
        self.reason = reason


class PolicyError(StrongholdError, ValueError):
    """A policy file is missing, not TOML, or invalid.

    ``line`` counts from 1; 0: no single line is at fault. ``key`` is the dotted key; empty: no single key is at fault.
    """

    def __init__(self, path: object, line: int, key: str, reason: str) -> None:
        where = f"policy {path}" + (f", line {line}" if line else "") + (f", {key}" if key else "")
        super().__init__(f"{where}: {reason}")
        self.path = str(path)
        self.line = line
        self.key = key
        self.reason = reason


class StateError(StrongholdError):
    """A state file cannot be read or written, or is not a state file."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"state file {path}: {reason}")
        self.path = str(path)
        self.reason = reason


class AddressBookError(StrongholdError, ValueError):
    """What :meth:`AddressBook.load` got is not an export of an address book, or has too many addresses."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"address book: {reason}")
        self.reason = reason


class PortMappingError(StrongholdError):
    """A router does not map a port by ``protocol``; ``answered``: it refuses, in place of silence."""

    def __init__(self, protocol: str, reason: str, *, answered: bool = True) -> None:
        super().__init__(f"{protocol}: {reason}")
        self.protocol = protocol
        self.reason = reason
        self.answered = answered


class EncodeError(StrongholdError, ValueError):
    """A value cannot be sent: wrong type, or too large."""


class NotPermitted(StrongholdError, PermissionError):
    """Refused by our own firewall, a ban or a policy. Nothing was sent.

    ``peer`` is None for an address that was refused before any peer id was authenticated.
    """

    def __init__(self, peer: PeerId | None, reason: str) -> None:
        super().__init__(f"not permitted{f' for peer {peer}' if peer else ''}: {reason}")
        self.peer = peer
        self.reason = reason


class LimitExceeded(StrongholdError):
    """A limit of our own is reached; ``limit`` is the field of :class:`Config`."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"Config.{limit} is reached")
        self.limit = limit


class DialError(StrongholdError, ConnectionError):
    """No connection to a peer.

    ``attempts`` lists every address with its error and its duration in seconds.
    """

    def __init__(
        self,
        peer: PeerId,
        attempts: Sequence[DialAttempt] = (),
        reason: str | None = None,
    ) -> None:
        tried = "; ".join(map(_tried, attempts))
        self.reason = reason or tried or "no address is known"
        super().__init__(f"cannot dial {peer}: {self.reason}")
        self.peer = peer
        self.attempts = tuple(attempts)


class RelayRefused(StrongholdError):
    """A relay refused a reservation, or a circuit to a peer (libp2p/specs relay/circuit-v2.md)."""

    def __init__(self, relay: PeerId, status: int, reason: str) -> None:
        super().__init__(f"the relay {relay} refused with status {status}: {reason}")
        self.relay = relay
        self.status = status
        """As on the wire, such as 204, "no reservation"."""
        self.reason = reason


def _tried(attempt: DialAttempt) -> str:
    names = f" from {', '.join(map(str, attempt.names))}" if attempt.names else ""
    error = attempt.error
    if isinstance(error, InvalidAddress):
        why = error.reason
    else:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
    return f"{attempt.address}{names}: {why} ({attempt.seconds:.2f} s)"


class RequestTimeout(StrongholdError, TimeoutError):
    """An operation exceeded its time limit. ``timeout`` is in seconds."""

    def __init__(self, timeout: float, what: str = "request") -> None:
        super().__init__(f"the {what} did not end within {timeout:g} s")
        self.timeout = timeout


class ConnectionLost(StrongholdError, ConnectionError):
    """The connection ended under a stream. It is unknown whether a request on it was handled."""

    def __init__(self, reason: str = "closed by the remote", path: Path | None = None) -> None:
        super().__init__(f"connection lost: {reason}")
        self.reason = reason
        """Of a circuit: also which announced limit of its relay had been reached, if one had."""
        self.path = path
        """That of the connection; None if there was none yet."""


_REFUSALS = {0x1001: "it has too many connections", 0x1007: "a ban or a policy of the remote"}


class ProtocolNotSupported(StrongholdError):
    """The remote does not offer the protocol, or not to us.

    ``code`` is the error code if the remote refused the whole connection, else 0. Known codes (libp2p/specs
    error-codes/README.md): 0x1007 for a ban or a policy, 0x1001 for too many connections.
    """

    def __init__(self, protocol: str, code: int = 0) -> None:
        if code:
            text = f"the remote refuses the connection, before {protocol}: {_REFUSALS.get(code, 'code')} ({code:#x})"
        else:
            text = f"the remote does not offer {protocol} to us"
        super().__init__(text)
        self.protocol = protocol
        self.code = code


class NoResponse(StrongholdError):
    """The remote closed the stream without a response: its firewall rejected the request, or its handler declined."""

    def __init__(self, peer: PeerId, told: reset_codes.Told | None = None) -> None:
        """``told``: what the remote says of it."""
        if told is None:
            super().__init__(f"{peer} closed the request without a response: rejected or declined")
        else:
            super().__init__(f"{peer} rejected the request: {_why(told)}")
        self.peer = peer
        self.reason = told.reason if told is not None else None
        """Why, if the remote's rule lets us know: ``"rejected"``; ``"asked, no answer"``: nobody has answered the question;
        ``"rate"`` or ``"busy"``: one of its limits. None: it does not say."""
        self.retry_after = told.retry_after if told is not None else None
        """Seconds after which another try may pass, if the remote says so."""


class StreamReset(StrongholdError, ConnectionError):
    """The remote reset the stream: its firewall rejected it, its handler failed, or a limit was reached.

    ``code`` is its error code, or 0. ``reason`` and ``retry_after`` are as for :class:`NoResponse`.
    """

    def __init__(self, code: int = 0) -> None:
        told = reset_codes.read(code)
        if told is not None:
            why = _why(told)
        else:
            why = "its handler failed or was too slow, the request is not of the type it expects, or a limit applied"
        super().__init__(f"the remote reset the stream{f' with code {code:#x}' if code and not told else ''}: {why}")
        self.code = code
        self.reason = told.reason if told is not None else None
        self.retry_after = told.retry_after if told is not None else None


_WHY = {
    "rejected": "its firewall does not allow it",
    "asked, no answer": "it needs somebody's answer there, and nobody has given one",
    "rate": "there were too many in too little time",
    "busy": "there are too many at once",
}


def _why(told: reset_codes.Told) -> str:
    again = f"; try again after {told.retry_after:g} s" if told.retry_after is not None else ""
    return f"{_WHY[told.reason]}{again}"


class RemoteProtocolError(StrongholdError):
    """The remote violated ``protocol``; ``reason`` says how."""

    def __init__(self, protocol: str, reason: str) -> None:
        super().__init__(f"{protocol}: {reason}")
        self.protocol = protocol
        self.reason = reason


class TlsError(RemoteProtocolError):
    """The TLS handshake failed, the remote's certificate is invalid, or the remote does not speak TLS."""

    def __init__(self, reason: str) -> None:
        super().__init__("tls", reason)


class WebSocketError(RemoteProtocolError):
    """The HTTP handshake of a WebSocket failed, or a frame is invalid."""

    def __init__(self, reason: str) -> None:
        super().__init__("websocket", reason)


class NegotiationError(RemoteProtocolError):
    """A multistream-select line is malformed, too long or unexpected."""

    def __init__(self, reason: str) -> None:
        super().__init__("multistream-select", reason)


class HandshakeError(RemoteProtocolError):
    """The Noise handshake failed: a message is short, altered or replayed, or its payload does not verify."""

    def __init__(self, reason: str) -> None:
        super().__init__("noise", reason)


class PeerIdMismatch(HandshakeError):
    """The handshake authenticated ``actual`` instead of the dialed peer ``expected``."""

    def __init__(self, expected: PeerId, actual: PeerId) -> None:
        super().__init__(f"dialed {expected}, but the remote is {actual}")
        self.expected = expected
        self.actual = actual


class MuxerError(RemoteProtocolError):
    """A Yamux frame is invalid; the session ends with Go Away ``code``."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__("yamux", reason)
        self.code = code


class DecodeError(RemoteProtocolError):
    """Bytes from the remote are not a valid varint, protobuf message or codec message."""
