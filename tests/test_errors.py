"""One tree of errors, whose attributes say what their text does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from stronghold_p2p import (
    ClosedError,
    ConnectionLost,
    DecodeError,
    DialAttempt,
    DialError,
    EncodeError,
    HandshakeError,
    InvalidAddress,
    InvalidName,
    KeyFileError,
    Keypair,
    LimitExceeded,
    ListenError,
    Multiaddr,
    MuxerError,
    NegotiationError,
    NoResponse,
    NotPermitted,
    PeerIdMismatch,
    ProtocolNotSupported,
    RemoteProtocolError,
    RequestTimeout,
    StreamReset,
    StrongholdError,
    errors,
    public,
)

PEER, OTHER = Keypair.generate().peer_id, Keypair.generate().peer_id
ADDRESS = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")


def test_the_drawing_at_the_top_is_the_tree() -> None:
    assert errors.__doc__ is not None
    lines = iter(errors.__doc__.splitlines())
    path = [next(line for line in lines if line == "StrongholdError")]
    parents: dict[str, str] = {}
    for branch, name in re.findall(r"^([│ ]*[├└]── )(\w+) ", "\n".join(lines), re.MULTILINE):
        del path[len(branch) // 4 :]
        parents[name] = path[-1]
        path.append(name)
    assert parents == dict(children_and_parents(StrongholdError))


def children_and_parents(error: type[StrongholdError]) -> Iterator[tuple[str, str]]:
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child.__name__, error.__name__
            yield from children_and_parents(child)


def test_every_error_is_public_and_of_the_tree() -> None:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]
    assert {error.__name__ for error in classes} == set(errors.__all__)
    assert set(errors.__all__) <= set(public.__all__)
    assert all(issubclass(error, StrongholdError) for error in classes)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InvalidAddress, ValueError),
        (InvalidName, ValueError),
        (ListenError, OSError),
        (EncodeError, ValueError),
        (NotPermitted, PermissionError),
        (DialError, ConnectionError),
        (RequestTimeout, TimeoutError),
        (ConnectionLost, ConnectionError),
        (StreamReset, ConnectionError),
    ],
)
def test_what_else_an_error_is(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)


@pytest.mark.parametrize("error", [NegotiationError, HandshakeError, PeerIdMismatch, MuxerError, DecodeError])
def test_what_the_remote_did_wrong(error: type[Exception]) -> None:
    assert issubclass(error, RemoteProtocolError)


@pytest.mark.parametrize(
    "error",
    [
        *(ClosedError, InvalidAddress, ListenError, KeyFileError, EncodeError, NotPermitted, LimitExceeded, DialError),
        *(RequestTimeout, ConnectionLost, ProtocolNotSupported, NoResponse, StreamReset),
    ],
)
def test_what_it_did_not(error: type[Exception]) -> None:
    assert not issubclass(error, RemoteProtocolError)


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (InvalidAddress("/x", "unknown"), {"address": "/x", "reason": "unknown"}),
        (InvalidName("alice", "taken"), {"name": "alice", "reason": "taken"}),
        (ListenError(ADDRESS, "in use"), {"address": str(ADDRESS), "reason": "in use"}),
        (KeyFileError("a.pem", "missing"), {"path": "a.pem", "reason": "missing"}),
        (NotPermitted(PEER, "banned"), {"peer": PEER, "reason": "banned"}),
        (LimitExceeded("max_connections"), {"limit": "max_connections"}),
        (RequestTimeout(1.5), {"timeout": 1.5}),
        (ConnectionLost("cut"), {"reason": "cut"}),
        (ProtocolNotSupported("/a"), {"protocol": "/a"}),
        (NoResponse(PEER), {"peer": PEER}),
        (StreamReset(7), {"code": 7}),
        (RemoteProtocolError("/a", "wrong"), {"protocol": "/a", "reason": "wrong"}),
        (NegotiationError("wrong"), {"protocol": "multistream-select", "reason": "wrong"}),
        (HandshakeError("wrong"), {"protocol": "noise", "reason": "wrong"}),
        (PeerIdMismatch(PEER, OTHER), {"protocol": "noise", "expected": PEER, "actual": OTHER}),
        (MuxerError("wrong"), {"protocol": "yamux", "reason": "wrong", "code": 1}),
        (DecodeError("json", "wrong"), {"protocol": "json", "reason": "wrong"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_attributes_are_in_the_text_too(error: Exception, attributes: dict[str, object]) -> None:
    for name, value in attributes.items():
        assert getattr(error, name) == value
        if name not in {"protocol", "code"} or isinstance(error, ProtocolNotSupported | StreamReset):
            assert str(value) in str(error)


def test_a_dial_error_names_every_attempt() -> None:
    refused = OSError("refused")
    names = (Multiaddr.parse("/dnsaddr/bob.example"), Multiaddr.parse("/dns4/one.bob.example/tcp/1"))
    attempts = DialAttempt(ADDRESS, refused, 0.25), DialAttempt(ADDRESS, refused, 0.5, names)
    error = DialError(PEER, attempts)
    assert error.peer == PEER
    assert error.attempts == attempts
    assert f"{ADDRESS}: refused (0.25 s); " in str(error)
    assert f"{ADDRESS} from /dnsaddr/bob.example, /dns4/one.bob.example/tcp/1: refused (0.50 s)" in str(error)
    assert "no address is known" in str(DialError(PEER))
    assert "because" in str(DialError(PEER, reason="because"))


def test_closed_says_what_to_do() -> None:
    assert "async with" in str(ClosedError())
    assert str(StreamReset()).startswith("the remote reset the stream: ")
