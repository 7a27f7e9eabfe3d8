"""Relays, and the peer that is to be reached: facts in, findings out. Pure."""

from __future__ import annotations

from typing import Any, Final

from ..errors import DialError, ProtocolNotSupported, RelayRefused, RequestTimeout
from ..events import HolePunchFailed, PathLimits, PathUpgraded, PeerIdentified, ReservationMade
from ..identity import PeerId
from ..multiaddr import Multiaddr
from ..protocols.hole_punching import PROTOCOL as DCUTR
from ..protocols.relay.message import Status
from ..requests.codec import PROTOCOLS
from ..swarm.own_addresses import Scope, scope_of
from .dialing import RAISE, REFUSES_RELAYED, advice_on, attempts_data, in_words, on_status
from .facts import Contact, Punch, RelayContact
from .finding import Finding, duration, listed, shortened

__all__ = [
    "check_address",
    "check_direct",
    "check_hole_punching",
    "check_ping",
    "check_relay",
    "check_relayed",
    "check_requests",
    "is_cut",
    "is_local",
    "is_public",
]

SMALL: Final = 1024 * 1024
"""Bytes of a circuit below which a request may not fit: a message of JSON has up to as many."""

TINY: Final = 10 * 1024
"""Bytes of a circuit that do for the handshake and what the two sides say of themselves, but for hardly any request."""

BRIEF: Final = 30.0
"""Seconds below which a circuit may end before somebody has answered a question of the firewall."""

SLOW: Final = 1.0
"""Seconds of a round trip."""

MAX_PROTOCOLS: Final = 64
"""Of a remote, in the data."""

KIB: Final = 1024


def check_relay(relay: RelayContact, *, leads: bool = False) -> Finding:
    """Whether it can be dialed, is a relay, and gives a reservation. ``leads``: it has connected us to the peer anyway."""
    check = "relay"
    contact, refusal = relay.contact, relay.refusal
    data: dict[str, Any] = {"relay": str(contact.target.peer), **_data(contact), "reservation": None, "refusal": None}
    if contact.path is None:
        what = f"The relay {contact.target.peer} cannot be reached"
        return _not_reached(check, what, contact, data, whom="relay")
    what = f"The relay {contact.target.peer} answers{_how(contact)}"
    if relay.reservation is not None:
        data["reservation"] = _reservation_data(relay, relay.reservation)
        return _check_reservation(check, what, relay, relay.reservation, data)
    data["refusal"] = None if refusal is None else shortened(refusal)
    match refusal:
        case RelayRefused():
            what += f", but gives no reservation: {refusal.reason}, status {refusal.status}."
            advice = on_status(refusal.status)
        case ProtocolNotSupported(code=0):
            what += f", but is no relay, or not for us: it does not offer {refusal.protocol}."
            advice = (
                "Start it with `stronghold-p2p relay`. If it is go-libp2p or rust-libp2p, tell it a public address of its own:"
                " they offer to relay only once they know one."
            )
        case ProtocolNotSupported():
            what += f", but refuses us: {shortened(refusal)}."
            advice = on_status(Status.PERMISSION_DENIED)
        case _:
            reason = "it did not answer in time" if refusal is None else shortened(refusal)
            what += f", but gives no reservation: {reason}."
            advice = "Look at the log of the relay, or try another one."
    if leads:
        return Finding(check, "note", f"{what} It connects us to the peer, though.", advice, data)
    return Finding(check, "problem", what, advice, data)


def check_direct(contact: Contact, *, needed: bool) -> Finding:
    """The dial to a peer at the address that was given. ``needed``: nothing else has led there."""
    check = "peer"
    data = {"peer": str(contact.target.peer), **_data(contact)}
    if contact.path is None:
        what = f"The peer {contact.target.peer} cannot be reached directly"
        return _not_reached(check, what, contact, data, needed=needed)
    what = f"The peer answers directly{_how(contact)}"
    if not contact.closed:
        return Finding(check, "ok", f"{what}.", None, data)
    what += ", but it ends direct connections: a ban, a policy, or it wants relays only."
    if not needed:
        return Finding(check, "note", what, None, data)
    advice = "Look at the bans and the policy of the peer, or reach it through a relay."
    return Finding(check, "problem", what, advice, data)


def check_relayed(contact: Contact, *, needed: bool, relay_given: bool = False) -> Finding:
    """The same through a relay. ``relay_given``: it was given by itself, too, and answers."""
    check = "peer_by_relay"
    data = {"peer": str(contact.target.peer), **_data(contact)}
    if contact.path is None:
        relay = "a relay" if contact.target.relay is None else f"the relay {contact.target.relay}"
        what = f"The peer {contact.target.peer} cannot be reached through {relay}"
        return _not_reached(check, what, contact, data, needed=needed, relay_given=relay_given)
    what = f"The peer answers through the relay {contact.path.relay} after {contact.seconds:.2f} s"
    if is_cut(contact):
        what += f", but its limit ends the connection early: {_limits(contact.path.limits)}."
        return Finding(check, "problem" if needed else "note", what, RAISE, data)
    if contact.closed:
        what += ", but it ends the relayed connection: a ban, or a policy."
        return Finding(check, "problem" if needed else "note", what, REFUSES_RELAYED, data)
    return _reached(check, what, contact, data)


def check_address(contact: Contact) -> Finding:
    """The same at an address that the peer has told."""
    check = "peer_address"
    data = {"peer": str(contact.target.peer), **_data(contact)}
    where = contact.target.address
    if contact.path is not None:
        what = f"The peer answers at {where}, too, which it says of itself"
        return _reached(check, what, contact, data)
    assert contact.error is not None
    what = f"The peer says that it can be dialed at {where}, but it cannot from here: {in_words(contact.error)}."
    return Finding(check, "note", what, None, data)


def check_ping(contact: Contact) -> Finding:
    """The round trip to a peer that was reached."""
    check = "ping"
    through = "" if contact.path is None or contact.path.relay is None else " through the relay"
    if is_cut(contact):
        return _cut(check, contact, {"rtt_ms": None})
    if contact.closed:
        what = f"No ping was answered{through}: the peer has ended the connection."
        return Finding(check, "unknown", what, None, {"rtt_ms": None})
    match contact.ping:
        case float(seconds):
            data = {"rtt_ms": round(seconds * 1000, 3)}
            what = f"A round trip to the peer{through} takes {seconds * 1000:.1f} ms."
            if seconds > SLOW:
                return Finding(check, "note", what, "Expect each request to take longer than that.", data)
            return Finding(check, "ok", what, None, data)
        case None | ProtocolNotSupported(code=0):
            return Finding(check, "unknown", "The peer does not serve pings.", None, {"rtt_ms": None})
        case error:
            what = f"The peer did not answer a ping{through}: {shortened(error)}."
            return Finding(check, "problem", what, "Look whether the peer is overloaded or asleep.", {"rtt_ms": None})


def check_requests(contact: Contact, own: PeerId, *, is_kept: bool = True) -> Finding:
    """Whether the peer takes requests of ``own``, which has reached it. ``is_kept``: somebody has the key of that id."""
    check = "requests"
    identity = contact.identity
    if is_kept:
        allow = f"On its side, allow {own}. If your peer has another key, give it here: --key FILE."
    else:
        allow = (
            "First give the key of your peer here, --key FILE: the peer may know its id, while that of this look is new and"
            " is not kept. Else allow the id of your peer on the other side."
        )
    if is_cut(contact):
        return _cut(check, contact, {})
    if contact.closed:
        what = "The peer has closed the connection before it answered anything, as for a ban or a policy."
        return Finding(check, "problem", what, allow)
    if identity is None:
        what = "The peer does not say what it offers: it has no identify protocol, or was too slow."
        return Finding(check, "unknown", what, f"Try it: `stronghold-p2p request {contact.target} JSON`.")
    codecs = [codec for codec, protocol in PROTOCOLS.items() if protocol in identity.protocols]
    agent = shortened(identity.agent_version) or "a program without a name"
    protocols = [shortened(protocol) for protocol in identity.protocols[:MAX_PROTOCOLS]]
    data = {"agent": shortened(identity.agent_version), "codecs": codecs, "protocols": protocols}
    limits = None if contact.path is None else contact.path.limits
    if codecs and limits is not None and limits.bytes is not None and limits.bytes < TINY:
        what = f"The peer is {agent}, and takes requests, but through the relay only of {_limits(limits)}."
        return Finding(check, "problem", what, RAISE, data)
    if codecs:
        what = f"The peer is {agent}, and takes requests of ours as {listed(codecs)}, which it may still reject one by one."
        return Finding(check, "ok", what, None, data)
    what = (
        f"The peer is {agent}, and offers no request protocol to us: its firewall rejects all our requests, or it answers"
        " none."
    )
    return Finding(check, "problem", what, allow, data)


def check_hole_punching(contact: Contact, punch: Punch | None) -> Finding:
    """Whether the path to a peer that was reached through a relay becomes direct. ``punch``: None if nobody can try."""
    check = "hole_punching"
    identity = contact.identity
    if identity is None:
        return Finding(check, "unknown", "The peer does not say whether it can punch holes.")
    match None if punch is None else punch.outcome:
        case PathUpgraded(connection):
            what = f"The path through the relay became a direct one, by hole punching, to {connection.address}."
            return Finding(check, "ok", what, None, {"address": str(connection.address)})
        case HolePunchFailed(error=error):
            reason = in_words(error) if isinstance(error, DialError) else shortened(error)
            what = f"No hole could be punched to the peer: {reason}. Its path stays the one through the relay."
            advice = "Have one of the two be reachable: by a forwarded port, as with --port-mapping, or by IPv6."
            return Finding(check, "note", what, advice)
    if DCUTR in identity.protocols and punch is None:
        what = "The peer offers hole punching, but we have no public address to which it could: its path stays relayed."
        return Finding(check, "note", what, "Give a relay that answers at a public address: it sees our own.")
    if DCUTR in identity.protocols:
        return Finding(check, "unknown", "The peer offers hole punching, but did not begin with it in time.")
    what = f"The peer does not offer hole punching, {DCUTR}: its path stays the one through the relay."
    advice = "If it is go-libp2p, try again in a minute: it offers that only once it knows a public address of its own."
    return Finding(check, "note", what, advice)


def is_public(relay: RelayContact) -> bool:
    """Whether the relay has a public address, as far as is known."""
    return any(scope_of(address) is Scope.PUBLIC for address in _addresses(relay))


def is_local(relay: RelayContact) -> bool:
    """Whether the relay has loopback addresses alone: it is on this machine."""
    addresses = _addresses(relay)
    return bool(addresses) and all(scope_of(address) is Scope.LOOPBACK for address in addresses)


def _addresses(relay: RelayContact) -> tuple[Multiaddr, ...]:
    told = () if relay.reservation is None else relay.reservation.addresses
    remote = () if relay.contact.remote is None else (relay.contact.remote,)
    return *remote, *told


def is_cut(contact: Contact) -> bool:
    """Whether the relay seems to have ended the connection at its limit."""
    limits = None if contact.path is None else contact.path.limits
    if limits is None:
        return False
    is_tight = (limits.bytes or TINY) < TINY or (limits.seconds or BRIEF) < BRIEF
    return is_tight and (contact.closed or isinstance(contact.ping, ConnectionError | DialError | RequestTimeout))


def _cut(check: str, contact: Contact, data: dict[str, Any]) -> Finding:
    assert contact.path is not None
    what = (
        f"The connection to the peer through the relay {contact.path.relay} ended early: the relay gives it only"
        f" {_limits(contact.path.limits)}."
    )
    return Finding(check, "problem", what, RAISE, data)


def _check_reservation(
    check: str, what: str, relay: RelayContact, made: ReservationMade, data: dict[str, Any]
) -> Finding:
    limits = None if made.limits is None else _as_meant(made.limits, relay.contact.identity)
    lifetime = "" if relay.lifetime is None or relay.lifetime < 0 else f" for {duration(relay.lifetime)}"
    what += f", and gives a reservation{lifetime}; each connection through it has {_limits(limits)}."
    if limits is not None and limits.bytes is not None and limits.bytes < TINY:
        return Finding(check, "problem", f"{what} That is too little for requests.", RAISE, data)
    if limits is not None and limits.bytes is not None and limits.bytes < SMALL:
        advice = (
            "Keep requests and responses below that, or use a relay that allows more, as `stronghold-p2p relay` does."
        )
        return Finding(check, "note", what, advice, data)
    if limits is not None and limits.seconds is not None and limits.seconds < BRIEF:
        advice = "Expect requests to be cut off, or use a relay that gives more time, as `stronghold-p2p relay` does."
        return Finding(check, "note", what, advice, data)
    if is_local(relay):
        what += " It has a loopback address alone: only peers on this machine can use it."
        return Finding(check, "note", what, None, data)
    if not is_public(relay):
        what += " It has no public address: only peers in its network can use it."
        return Finding(check, "note", what, None, data)
    return Finding(check, "ok", what, None, data)


def _as_meant(limits: PathLimits, identity: PeerIdentified | None) -> PathLimits:
    """js-libp2p tells milliseconds where seconds are meant."""
    if identity is None or limits.seconds is None or not identity.agent_version.startswith("js-libp2p"):
        return limits
    return PathLimits(limits.seconds / 1000, limits.bytes)


def _reached(check: str, what: str, contact: Contact, data: dict[str, Any]) -> Finding:
    if contact.closed:
        return Finding(check, "note", f"{what}, but closes the connection.", None, data)
    return Finding(check, "ok", f"{what}.", None, data)


def _not_reached(
    check: str,
    what: str,
    contact: Contact,
    data: dict[str, Any],
    *,
    needed: bool = True,
    whom: str = "peer",
    relay_given: bool = False,
) -> Finding:
    error = contact.error
    assert error is not None
    advice = advice_on(error, whom=whom, relay_given=relay_given)
    return Finding(check, "problem" if needed else "note", f"{what}: {in_words(error)}.", advice, data)


def _how(contact: Contact) -> str:
    assert contact.path is not None
    return f" by {contact.path.transport} at {contact.path.dialed} after {contact.seconds:.2f} s"


def _data(contact: Contact) -> dict[str, Any]:
    path = contact.path
    return {
        "address": str(contact.target),
        "seconds": round(contact.seconds, 3),
        "transport": None if path is None else path.transport,
        "dialed": None if path is None else str(path.dialed),
        "through": None if path is None or path.relay is None else str(path.relay),
        "attempts": [] if contact.error is None else attempts_data(contact.error),
    }


def _reservation_data(relay: RelayContact, made: ReservationMade) -> dict[str, Any]:
    return {
        "seconds": None if relay.lifetime is None else round(relay.lifetime),
        "max_seconds": None if made.limits is None else made.limits.seconds,
        "max_bytes": None if made.limits is None else made.limits.bytes,
        "addresses": [str(address) for address in made.addresses],
    }


def _limits(limits: PathLimits | None) -> str:
    if limits is None or (limits.bytes is None and limits.seconds is None):
        return "no limits"
    of_bytes = "any number of bytes" if limits.bytes is None else f"{_size(limits.bytes)} each way"
    of_time = "any time" if limits.seconds is None else duration(limits.seconds)
    return f"{of_bytes} and {of_time}"


def _size(count: int) -> str:
    for unit, size in (("MiB", KIB * KIB), ("KiB", KIB)):
        if count >= size:
            return f"{count / size:.0f} {unit}"
    return f"{count} bytes"
