"""How remotes see this machine: facts in, findings out. Pure."""

from __future__ import annotations

from typing import Any, Final

from ..events import AddressOrigin, AddressReachability, NatKind
from ..multiaddr import Multiaddr
from .facts import Outside, port_of
from .finding import Finding, listed

__all__ = ["check_nat", "check_reachability"]

ENOUGH: Final = 2
"""Remotes that say where they see us, for the kind of NAT."""


def check_nat(outside: Outside) -> Finding:
    """Which ports the router gives our connections (RFC 5382, section 4.1): whether holes can be punched."""
    check = "nat"
    kind = outside.nat_kind
    data = {"kind": None if kind is None else kind.value}
    match kind:
        case NatKind.NONE:
            what = "No router translates our addresses: remotes see us at an address of this machine."
            return Finding(check, "ok", what, None, data)
        case NatKind.ENDPOINT_INDEPENDENT:
            what = (
                "The router gives a port of ours the same port towards every remote, endpoint-independent NAT: hole punching"
                " can make relayed paths direct."
            )
            return Finding(check, "ok", what, None, data)
        case NatKind.ENDPOINT_DEPENDENT:
            what = (
                "The router gives a port of ours another port towards each remote, symmetric NAT: hole punching does not work"
                " from here."
            )
            advice = "Have the router forward a port, use IPv6, or keep to a relay, with --via-relay."
            return Finding(check, "note", what, advice, data)
    if outside.asked < ENOUGH:
        what = "The kind of NAT was not looked at: that takes two relays or peers at different public IPv4 addresses."
        advice = "Give two relays, with --relay, or a relay and a peer."
        if outside.given >= ENOUGH:
            advice = "Give two relays or peers that answer at public IPv4 addresses: those that were given do not."
        elif outside.given:
            advice = "Give another relay or peer, too: two that answer at public IPv4 addresses are needed."
        return Finding(check, "skipped", what, advice, data)
    what = f"The {outside.asked} remotes that were asked do not tell the kind of NAT: they say nothing of where they see us."
    return Finding(check, "unknown", what, None, data)


def check_reachability(outside: Outside, *, needed: bool) -> Finding:
    """Whether remotes can dial us. ``needed``: no relay brings them."""
    check = "reachability"
    data = {"addresses": {str(address): _data(known) for address, known in outside.reachability.items()}}
    if not outside.servers:
        what = "Nobody was asked to dial us: that takes a relay or a peer at a public address that offers AutoNAT v2."
        if outside.given:
            advice = "Give another one, which answers at a public address, such as a `stronghold-p2p relay` there."
        else:
            advice = "Give one, with --relay, such as a `stronghold-p2p relay`."
        return Finding(check, "skipped", what, advice, data)
    if not outside.reachability:
        return Finding(check, "note", "Nobody was asked to dial us: we have no public address.", None, data)
    dialed = [(address, known) for address, known in outside.reachability.items() if known.dialed_by]
    if dialed:
        ways = [f"{_shown(address, known)}, as {known.dialed_by[-1]} has" for address, known in dialed]
        return Finding(check, "ok", f"Peers elsewhere can dial us at {listed(ways)}.", None, data)
    failed = [(address, known) for address, known in outside.reachability.items() if known.not_dialed_by]
    if not failed:
        what = (
            f"Nobody has dialed us yet, though asked: {listed([_shown(*one) for one in outside.reachability.items()])}."
        )
        advice = "Give it more time, as with --seconds 30. A firewall that drops packets takes longest."
        return Finding(check, "unknown", what, advice, data)
    ways = [f"{_shown(address, known)}, which {known.not_dialed_by[-1]} has tried" for address, known in failed]
    what = f"Peers elsewhere cannot dial us at {listed(ways)}."
    address, known = failed[0]
    return Finding(check, "problem" if needed else "note", what, _advice_on(address, known.origin), data)


def _advice_on(address: Multiaddr, origin: AddressOrigin) -> str:
    """What to do about an address that cannot be dialed."""
    port = port_of(address)
    match origin:
        case AddressOrigin.INTERFACE:
            return (
                f"Let TCP port {port} through the firewalls of this machine and its provider. To test another port, add"
                " --listen, as with --listen /ip4/0.0.0.0/tcp/4001."
            )
        case AddressOrigin.MAPPED:
            return "Listen through a relay, with --via-relay, or use IPv6: a firewall behind the router lets nobody in."
        case AddressOrigin.ANNOUNCED:
            return f"Check that this address leads to this machine, and that nothing in between stops TCP port {port}."
        case AddressOrigin.OBSERVED:
            return "Have the router forward a port, by --port-mapping or by hand, or listen through a relay, with --via-relay."


def _shown(address: Multiaddr, known: AddressReachability) -> str:
    return f"{address.without_peer()} ({known.origin.value})"


def _data(known: AddressReachability) -> dict[str, Any]:
    return {
        "state": known.state.value,
        "origin": known.origin.value,
        "dialed_by": [str(server) for server in known.dialed_by],
        "not_dialed_by": [str(server) for server in known.not_dialed_by],
    }
