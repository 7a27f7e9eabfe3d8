"""Why a dial has failed, in plain words. Pure."""

from __future__ import annotations

import errno
from typing import Any, Final

from ..errors import (
    ConnectionLost,
    DialError,
    InvalidAddress,
    NegotiationError,
    NotPermitted,
    PeerIdMismatch,
    RelayRefused,
    RemoteProtocolError,
    StreamReset,
    TlsError,
    WebSocketError,
)
from ..events import DialAttempt
from ..swarm.own_addresses import Scope, scope_of
from ..transport.resolver import is_name
from .facts import port_of
from .finding import MAX_SHOWN, shortened

__all__ = ["RAISE", "REFUSES_RELAYED", "advice_on", "attempts_data", "in_words", "on_status"]

NOTABLE: Final = 0.1
"""Seconds of a failed dial that are worth telling."""

RAISE: Final = "Have the relay allow more, as `stronghold-p2p relay` does unless told otherwise, or use another relay."

REFUSES_RELAYED: Final = "Look at the policy and the bans of the peer: it may refuse relayed connections, by networks.relayed or networks.allow."

NO_ROUTE: Final = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}


def in_words(error: DialError) -> str:
    """Each address, with what came of it; the address of a circuit alone is left out."""
    if not error.attempts:
        return shortened(error.reason)
    if len(error.attempts) == 1 and error.attempts[0].address.is_relayed:
        return f"{_message(error.attempts[0].error, is_relayed=True)}{_time(error.attempts[0])}"
    told = [_told(attempt) for attempt in error.attempts[:MAX_SHOWN]]
    if len(error.attempts) > MAX_SHOWN:
        told.append(f"and {len(error.attempts) - MAX_SHOWN} other addresses failed")
    return "; ".join(told)


def attempts_data(error: DialError) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "address": str(attempt.address),
            "names": [str(name) for name in attempt.names],
            "error": type(attempt.error).__name__,
            "message": _message(attempt.error, is_relayed=attempt.address.is_relayed),
            "seconds": round(attempt.seconds, 3),
        }
        for attempt in error.attempts
    ]


def advice_on(error: DialError, *, whom: str = "peer", relay_given: bool = False) -> str:
    """What to do about the address that tells most: one where something answered comes before one where nothing did.

    ``whom``: ``"relay"`` if that was to be reached. ``relay_given``: the relay in the address was given by itself, too.
    """
    if not error.attempts:
        other = "" if whom == "relay" else ", or start the other peer with --mdns"
        return f"Give the whole address, such as /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo...{other}."
    return _advice(min(error.attempts, key=_silence), whom, relay_given=relay_given)


def on_status(status: int) -> str:
    """What to do when a relay refuses (libp2p/specs relay/circuit-v2.md)."""
    match status:
        case 200 | 201:
            return "The relay is full, or it has enough of this network. Try it again later, or another relay."
        case 202:
            return (
                "Have the operator of the relay allow this peer, or use the key of a peer that it allows: --key FILE."
            )
        case 203:
            return "Look at the log of the peer: it has a reservation, but did not take what the relay brought."
        case 204:
            return "Have the peer listen through this relay: start it with --via-relay and the address of the relay."
        case _:
            return "Look at the log of the relay."


def _told(attempt: DialAttempt) -> str:
    names = f" (from {attempt.names[0]})" if attempt.names else ""
    return f"{attempt.address}{names}: {_message(attempt.error, is_relayed=attempt.address.is_relayed)}{_time(attempt)}"


def _time(attempt: DialAttempt) -> str:
    return f" ({attempt.seconds:.1f} s)" if attempt.seconds >= NOTABLE else ""


def _message(error: Exception, *, is_relayed: bool = False) -> str:
    if isinstance(error, RelayRefused):
        return f"{error.reason}, status {error.status}"
    if isinstance(error, InvalidAddress):
        return error.reason
    if isinstance(error, StreamReset) and is_relayed:
        return "the circuit was reset at once"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return shortened(error)


def _silence(attempt: DialAttempt) -> int:
    """Small where the other side has told something."""
    match attempt.error:
        case RelayRefused() | RemoteProtocolError() | StreamReset():
            return 0
        case ConnectionLost() | ConnectionResetError():
            return 1
        case ConnectionRefusedError():
            return 2
        case TimeoutError():
            return 3
        case _:
            return 4


def _advice(attempt: DialAttempt, whom: str, *, relay_given: bool) -> str:
    address, error = attempt.address, attempt.error
    port = port_of(address) or "?"
    match error:
        case RelayRefused():
            return on_status(error.status)
        case PeerIdMismatch():
            return f"Use the id of the {whom} that is there now, {error.actual}, if that is the one you mean."
        case StreamReset() if address.is_relayed:
            return REFUSES_RELAYED
        case ConnectionLost() if address.is_relayed and "announced limit" in error.reason:
            return RAISE
        case _ if address.is_relayed and relay_given:
            return "Look at the logs of the relay and of the peer: the relay answers us, but the way on from it fails."
        case _ if address.is_relayed:
            return "Look whether the relay answers: give it with --relay."
        case TlsError():
            return "Look at the certificate there: is it for this name, and valid by the clocks of both sides?"
        case NegotiationError():
            return f"Check the port, or append /ws: what answers at TCP port {port} is no peer, or speaks WebSocket."
        case WebSocketError():
            return (
                f"Check the port, or leave out /ws: what answers at TCP port {port} is no peer that speaks WebSocket."
            )
        case ConnectionLost() | ConnectionResetError():
            return (
                "Look at the log of the other side: something there closes the connection, such as a policy or a proxy."
            )
        case ConnectionRefusedError() | TimeoutError() if scope_of(address) is Scope.LOOPBACK:
            return (
                f"Start the {whom} on this machine, at TCP port {port}, or give the address of the machine that it is on:"
                " a loopback address leads to this one."
            )
        case ConnectionRefusedError():
            return (
                f"Start the {whom} there, and have it listen on all interfaces, as at /ip4/0.0.0.0/tcp/{port}: nothing listens"
                " at that address."
            )
        case NotPermitted():
            return "Change the policy of this peer, which refuses that address."
        case InvalidAddress():
            return "Use an address with /tcp, /ws or /tls/ws: others, such as /quic-v1, are not supported."
        case _ if is_name(address):
            return "Check how the name is written, or use an IP address."
        case TimeoutError() if scope_of(address) is not Scope.PUBLIC:
            return (
                f"Give a public address of the {whom}{'' if whom == 'relay' else ', or one at a relay'}, if it is in another"
                f" network than this machine: a private address leads nowhere then. Else let TCP port {port} through the firewall of its machine."
            )
        case TimeoutError():
            return (
                f"Look whether the machine there runs, let TCP port {port} through its firewall, and have its router forward it."
                f" Or {'use another relay' if whom == 'relay' else 'have the peer listen through a relay, with --via-relay'}."
            )
        case OSError() if error.errno in NO_ROUTE:
            family = "IPv6" if address.components[0][0] == "ip6" else "IPv4"
            return f"Look whether this machine has {family}, and a route to that address."
        case _:
            return "Look at the log of the other side."
