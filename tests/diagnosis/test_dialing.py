from __future__ import annotations

import errno

import pytest

from stronghold_p2p import (
    ConnectionLost,
    DialAttempt,
    DialError,
    HandshakeError,
    InvalidAddress,
    Multiaddr,
    NegotiationError,
    NotPermitted,
    PeerId,
    PeerIdMismatch,
    RelayRefused,
    StreamReset,
    TlsError,
    WebSocketError,
)
from stronghold_p2p.diagnosis.dialing import advice_on, attempts_data, in_words

PEER = PeerId.parse("12D3KooWHbzMJW3LdgTFjcv7iXKhMMhNAQAfx7tGhe6U3BHNnBKD")
OTHER = PeerId.parse("12D3KooWFvyFjmVNas864oDAkFLMcNrmRwbyKJrJ6sHLEidQFx44")
TCP, TCP6 = Multiaddr.parse("/ip4/8.8.8.1/tcp/4001"), Multiaddr.parse("/ip6/2a00::1/tcp/4001")
LOOPBACK, PRIVATE = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001"), Multiaddr.parse("/ip4/192.168.7.7/tcp/4001")
QUIC = Multiaddr.parse("/ip4/8.8.8.1/udp/1/quic-v1")
NAME = Multiaddr.parse("/dns4/a.example/tcp/4001")
CIRCUIT = Multiaddr.parse(f"{TCP}/p2p/{OTHER}/p2p-circuit")
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def failed(error: Exception, address: Multiaddr = TCP, seconds: float = 0.0) -> DialAttempt:
    return DialAttempt(address, error, seconds)


@pytest.mark.parametrize(
    ("attempt", "says", "advises"),
    [
        (failed(REFUSED), f"{TCP}: connection refused", "as at /ip4/0.0.0.0/tcp/4001"),
        (failed(TimeoutError("no answer in time"), seconds=4.0), "no answer in time (4.0 s)", "let TCP port 4001 through its firewall"),
        (failed(REFUSED, LOOPBACK), "127.0.0.1/tcp/4001: connection refused", "a loopback address leads to this one"),
        (failed(TimeoutError("no answer in time"), PRIVATE), "no answer in time", "a private address leads nowhere then"),
        (failed(OSError(errno.ENETUNREACH, "Network is unreachable"), TCP6), "network is unreachable", "whether this machine has IPv6"),
        (failed(OSError(errno.EHOSTUNREACH, "No route to host")), "no route to host", "whether this machine has IPv4"),
        (failed(OSError(errno.EMFILE, "Too many open files")), "too many open files", "log of the other side"),
        (failed(OSError("the name has no IP address"), NAME), "has no IP address", "how the name is written"),
        (failed(TimeoutError("not looked up in time"), NAME), "not looked up in time", "how the name is written"),
        (failed(PeerIdMismatch(PEER, OTHER)), f"but the remote is {OTHER}", f"Use the id of the peer that is there now, {OTHER}"),
        (failed(TlsError("certificate has expired")), "certificate has expired", "certificate there"),
        (failed(NegotiationError("not a line")), "not a line", "append /ws: what answers at TCP port 4001"),
        (failed(WebSocketError("not HTTP")), "not HTTP", "leave out /ws"),
        (failed(HandshakeError("short")), "short", "log of the other side"),
        (failed(ConnectionLost("closed by the remote")), "closed by the remote", "log of the other side: something there closes"),
        (failed(NotPermitted(PEER, "a policy")), "not permitted", "Change the policy of this peer"),
        (failed(InvalidAddress(QUIC, "no transport supports it"), QUIC), "quic-v1: no transport", "Use an address with /tcp"),
        (failed(RelayRefused(OTHER, 204, "the peer has no reservation there"), CIRCUIT), "the peer has no reservation there, status 204", "start it with --via-relay"),
        (failed(RelayRefused(OTHER, 203, "it does not answer"), CIRCUIT), "status 203", "log of the peer"),
        (failed(RelayRefused(OTHER, 201, "a limit"), CIRCUIT), "status 201", "Try it again later"),
        (failed(RelayRefused(OTHER, 202, "its rules"), CIRCUIT), "status 202", "operator of the relay"),
        (failed(RelayRefused(OTHER, 400, "malformed"), CIRCUIT), "status 400", "log of the relay"),
        (failed(StreamReset(), CIRCUIT), "the circuit was reset at once", "it may refuse relayed connections, by networks.relayed"),
        (failed(ConnectionLost("the announced limit of 1 bytes each way had been reached"), CIRCUIT), "announced limit", "Have the relay allow more"),
        (failed(TimeoutError("no answer in time"), CIRCUIT), "no answer in time", "give it with --relay"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_failed_and_what_to_do(attempt: DialAttempt, says: str, advises: str) -> None:
    error = DialError(PEER, [attempt])
    assert says in in_words(error)
    assert advises in advice_on(error)


@pytest.mark.parametrize(
    ("attempt", "advises"),
    [
        (failed(REFUSED), "Start the relay there, and have it listen on all interfaces"),
        (failed(REFUSED, LOOPBACK), "Start the relay on this machine, at TCP port 4001"),
        (failed(TimeoutError("no answer in time")), "Or use another relay."),
        (failed(TimeoutError("no answer in time"), PRIVATE), "Give a public address of the relay, if it is in another network"),
        (failed(PeerIdMismatch(PEER, OTHER)), "Use the id of the relay that is there now"),
    ],
)  # fmt: skip
def test_a_relay_is_called_one(attempt: DialAttempt, advises: str) -> None:
    advice = advice_on(DialError(PEER, [attempt]), whom="relay")
    assert advises in advice
    assert "--via-relay" not in advice


def test_a_relay_that_was_given_is_not_asked_for_again() -> None:
    error = DialError(PEER, [failed(TimeoutError("no answer in time"), CIRCUIT)])
    assert "give it with --relay" in advice_on(error)
    assert "--relay" not in advice_on(error, relay_given=True)


def test_the_address_that_tells_most_is_advised_on() -> None:
    error = DialError(
        PEER, [failed(TimeoutError("no answer"), TCP6), failed(REFUSED), failed(PeerIdMismatch(PEER, OTHER))]
    )
    assert str(OTHER) in advice_on(error)
    error = DialError(PEER, [failed(OSError(errno.ENETUNREACH, "x"), TCP6), failed(TimeoutError("no answer"))])
    assert "let TCP port 4001 through" in advice_on(error)


def test_names_lead_to_addresses() -> None:
    error = DialError(PEER, [DialAttempt(TCP, REFUSED, 0.26, (NAME,))])
    assert in_words(error) == f"{TCP} (from {NAME}): connection refused (0.3 s)"
    assert attempts_data(error) == [
        {
            "address": str(TCP),
            "names": [str(NAME)],
            "error": "ConnectionRefusedError",
            "message": "connection refused",
            "seconds": 0.26,
        }
    ]


def test_many_addresses_are_counted() -> None:
    addresses = [Multiaddr.parse(f"/ip4/8.8.8.{number}/tcp/4001") for number in range(6)]
    told = in_words(DialError(PEER, [failed(REFUSED, address) for address in addresses]))
    assert told.endswith("8.8.8.3/tcp/4001: connection refused; and 2 other addresses failed")


def test_no_address() -> None:
    error = DialError(PEER, reason="nobody answers for it")
    assert in_words(error) == "nobody answers for it"
    assert "--mdns" in advice_on(error)


def test_what_a_remote_makes_long_is_cut() -> None:
    assert len(in_words(DialError(PEER, [failed(NegotiationError("x" * 1000))]))) < 300
