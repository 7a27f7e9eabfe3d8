"""This machine and its local network: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from ..identity import PeerId
from ..multiaddr import Ip
from ..swarm.own_addresses import Scope, scope_of
from .facts import Lookup, Machine, Neighbors
from .finding import Finding, Verdict, duration, listed, shortened, some

__all__ = ["check_clock", "check_interfaces", "check_mdns", "check_name", "check_name_servers"]

SHARED: Final = IPv4Network("100.64.0.0/10")
"""What providers give to customers who share one public address (RFC 6598), and some VPNs to their members."""

SLOW_LOOKUP: Final = 2.0
"""Seconds. A dial waits for the name, and has ten in all."""

LIFETIMES: Final = 30.0, 86_400.0
"""Seconds that reservations last: an hour at go and rust, two at js. One outside of this tells that the clocks differ."""


def check_interfaces(machine: Machine) -> Finding:
    """From where this machine can be reached, as far as its own addresses tell."""
    check = "interfaces"
    if machine.ips is None:
        return Finding(check, "unknown", "The system does not tell the addresses of this machine.")
    by_kind: dict[str, list[str]] = {}
    for ip in machine.ips:
        by_kind.setdefault(_kind(ip), []).append(str(ip))
    data = {"addresses": by_kind}
    match by_kind:
        case {"public": public}:
            what = f"This machine has the public {_addresses(public)}."
            if all(":" in ip for ip in public):
                what += " Only peers with IPv6 can dial that."
            return Finding(check, "ok", what, None, data)
        case {"shared": ips}:
            what = f"This machine has the {_addresses(ips)} of a provider or a VPN, and no public address."
        case {"private": ips}:
            what = f"This machine has the private {_addresses(ips)}, and no public address."
        case {"link-local": ips}:
            what = f"This machine has only the {_addresses(ips)}, which it has given itself: no router gave it any."
            advice = "Look at the cable or the wireless network, and whether its router gives out addresses by DHCP."
            return Finding(check, "problem", what, advice, data)
        case _:
            what = "This machine is in no network: it and others cannot reach each other."
            advice = "Connect it to a network. If this is a container, give it one."
            return Finding(check, "problem", what, advice, data)
    what += " Peers in other networks reach it by a forwarded port or a relay only."
    return Finding(check, "note", what, None, data)


def check_clock(machine: Machine, lifetimes: Mapping[PeerId, float]) -> Finding:
    """``lifetimes`` are those of the reservations that relays have given, in seconds by our clock."""
    check = "clock"
    data = {
        "synchronized": machine.clock_synchronized,
        "reservations": {str(relay): round(seconds) for relay, seconds in lifetimes.items()},
    }
    least, most = LIFETIMES
    for relay, seconds in lifetimes.items():
        if least <= seconds <= most:
            continue
        when = f"{duration(-seconds)} ago" if seconds < 0 else f"in {duration(seconds)}"
        ours = "ahead of" if seconds < least else "behind"
        what = f"Our clock is {ours} that of the relay {relay}: the reservation that it has just given ends {when} by ours."
        advice = "Have both machines set their clocks by the network: here, try `timedatectl set-ntp true`."
        return Finding(check, "problem", what, advice, data)
    if machine.clock_synchronized:
        return Finding(check, "ok", "The system keeps the clock synchronized.", None, data)
    if lifetimes:
        what = "The clock agrees with those of the relays, as far as reservations tell."
        return Finding(check, "ok", what, None, data)
    if machine.clock_synchronized is None:
        return Finding(check, "unknown", "The system does not tell whether the clock is synchronized.", None, data)
    what = "The system does not synchronize the clock, unless the host of a virtual machine does that."
    advice = "Compare it with another clock: if it is wrong, certificates of /tls/ws addresses are refused."
    return Finding(check, "note", what, advice, data)


def check_name(lookup: Lookup) -> Finding:
    """A name in an address."""
    check = "dns"
    found = [shortened(one) for one in lookup.found]
    data = {"name": lookup.name, "seconds": round(lookup.seconds, 3), "addresses": found, "error": lookup.error}
    if lookup.error is not None:
        what = f"The name in {lookup.name} leads nowhere: {shortened(lookup.error)}."
        advice = "Check how it is written, and whether the name servers of this machine answer. Or use an IP address."
        return Finding(check, "problem", what, advice, data)
    what = f"The name in {lookup.name} leads to {some(found)}."
    if lookup.seconds > SLOW_LOOKUP:
        advice = "Look at the name servers of this machine: each dial by name waits for them."
        return Finding(check, "note", f"{what} That took {lookup.seconds:.1f} s.", advice, data)
    return Finding(check, "ok", what, None, data)


def check_name_servers(machine: Machine) -> Finding:
    """When no name is to be looked up."""
    check = "dns"
    data = {"name_servers": machine.name_servers}
    if machine.name_servers is None:
        return Finding(check, "unknown", "The system does not tell its name servers.", None, data)
    if not machine.name_servers:
        what = "No name server is configured: addresses with names, such as /dns4 and /dnsaddr, cannot be dialed."
        advice = "Use IP addresses, or configure a name server, as in /etc/resolv.conf."
        return Finding(check, "note", what, advice, data)
    what = f"No given address has a name, so the name server at {listed(machine.name_servers)} was not asked."
    return Finding(check, "skipped", what, "To test it, add --name NAME.", data)


def check_mdns(neighbors: Neighbors, machine: Machine, *, needed: bool) -> Finding:
    """``needed``: a relay or a peer was given by its id alone."""
    check = "mdns"
    others = [str(peer) for peer in neighbors.others]
    data = {
        "error": neighbors.error,
        "own": [str(address) for address in neighbors.own],
        "peers": {str(peer): [str(address) for address in at] for peer, at in neighbors.others.items()},
    }
    worse: Verdict = "problem" if needed else "note"
    if neighbors.error is not None:
        what = f"Peers on the local network cannot be found: {shortened(neighbors.error)}."
        advice = "Stop the program that keeps UDP port 5353 to itself, or give peers by their addresses."
        return Finding(check, worse, what, advice, data)
    if others:
        what = f"On the local network answered {some(others)}."
        return Finding(check, "ok", what, None, data)
    if machine.ips is not None and all(ip.is_loopback for ip in machine.ips):
        return Finding(check, "skipped", "There is no local network on which to find peers.", None, data)
    if all(scope_of(address) is Scope.LOOPBACK for address in neighbors.own):
        what = f"What this machine announced by mDNS did not come back to it within {neighbors.seconds:g} s."
        advice = "Let UDP port 5353 through the firewall of this machine, from and to 224.0.0.251 and ff02::fb."
        return Finding(check, worse, what, advice, data)
    what = f"This machine can announce itself by mDNS, but no other peer answered within {neighbors.seconds:g} s."
    advice = (
        "To find a peer by its id, start it with --mdns in the same network. Guest networks and containers pass no multicast:"
        " there, give its address."
    )
    return Finding(check, worse, what, advice, data)


def _kind(ip: Ip) -> str:
    if ip.is_loopback:
        return "loopback"
    if ip.is_link_local:
        return "link-local"
    if isinstance(ip, IPv4Address) and ip in SHARED:
        return "shared"
    return "public" if ip.is_global else "private"


def _addresses(ips: list[str]) -> str:
    return f"address{'' if len(ips) == 1 else 'es'} {some(ips)}"
