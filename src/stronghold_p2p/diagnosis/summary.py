"""What follows from all findings together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ..events import AddressOrigin, NatKind, PathUpgraded, PortMapped
from ..multiaddr import Ip, Multiaddr
from .facts import Contact, Machine, Outside, Punch, RelayContact, Router
from .finding import Diagnosis, Finding, Reach
from .remotes import is_cut, is_local, is_public
from .router import forward_by_hand

__all__ = ["summarize"]

OF_PEER: Final = {"peer", "peer_by_relay", "ping", "requests"}
"""Checks whose advice comes first: who gives a peer wants to reach that."""

SIMPLEST_FIRST: Final = (
    AddressOrigin.INTERFACE,
    AddressOrigin.ANNOUNCED,
    AddressOrigin.OBSERVED,
    AddressOrigin.MAPPED,
)


class _Way(NamedTuple):
    """How peers elsewhere come in."""

    reach: Reach
    what: str
    advice: str


def summarize(
    findings: Sequence[Finding],
    machine: Machine,
    router: Router,
    outside: Outside,
    *,
    relays: Sequence[RelayContact],
    contacts: Sequence[Contact],
    punched: Punch | None = None,
) -> Diagnosis:
    """``contacts`` are the attempts to reach the given peer; empty: none was given. ``punched``: what became of the one
    through a relay."""
    failed = _advice_on_relays(findings, relays)
    way = _direct_way(machine, router, outside) or _other_way(machine, router, outside, relays, failed)
    local = next((one for one in relays if one.reservation is not None and is_local(one)), None)
    if local is not None and way.reach in {"not at all", "unknown"}:
        here = f"For peers on this machine, start the peer with {_via(local)}."
        way = way._replace(
            what=f"{way.what} Peers on this machine can, through the relay.", advice=f"{way.advice} {here}"
        )
    what, advice = way.what, way.advice
    if contacts:
        what = f"{_reached(contacts, punched)} {what}"
        of_peer = (one.advice for one in findings if one.check in OF_PEER and one.verdict == "problem")
        advice = next(filter(None, of_peer), advice)
    if failed is not None and failed not in advice and way.reach != "directly":
        advice = f"{advice} And as to the relay: {failed}"
    return Diagnosis(tuple(findings), way.reach, what, advice)


def _advice_on_relays(findings: Sequence[Finding], relays: Sequence[RelayContact]) -> str | None:
    """What to do about the given relays, if none gives a reservation."""
    if not relays or any(one.reservation is not None for one in relays):
        return None
    return next((one.advice for one in findings if one.check == "relay" and one.advice is not None), None)


def _reached(contacts: Sequence[Contact], punched: Punch | None) -> str:
    peer = contacts[0].target.peer
    ends = any(one.closed and one.path is not None and one.path.relay is None for one in contacts)
    paths = [one.path for one in contacts if one.path is not None and one.holds]
    if not paths and any(map(is_cut, contacts)):
        return f"You cannot reach the peer {peer}: the limit of the relay is too small."
    if not paths:
        return f"You cannot reach the peer {peer}{': it ends direct connections' if ends else ''}."
    if any(path.relay is None for path in paths):
        return f"You can reach the peer {peer} directly."
    if punched is not None and isinstance(punched.outcome, PathUpgraded):
        return f"You can reach the peer {peer} through a relay, and then directly, by hole punching."
    if all(is_cut(one) for one in contacts if one.holds):
        return f"You can reach the peer {peer} through a relay only, whose limit is too small for requests."
    return f"You can reach the peer {peer} through a relay only{': it ends direct connections' if ends else ''}."


def _direct_way(machine: Machine, router: Router, outside: Outside) -> _Way | None:
    """One that was tested, or else one of which nothing is known that is against it."""
    by_mapping = f"Start the peer with `{_listen(4, router.port)} --port-mapping --ask`."
    for origin in SIMPLEST_FIRST:
        dialed = outside.dialed(origin)
        if dialed is not None:
            what = f"Peers elsewhere can reach you directly: one has dialed {dialed}."
            return _Way(
                "directly", what, by_mapping if origin is AddressOrigin.MAPPED else _advice(dialed, origin, router)
            )
    if isinstance(router.mapping, PortMapped) and not outside.not_dialed(AddressOrigin.MAPPED):
        what = "Peers elsewhere can reach you directly, since the router forwards a port. Nobody has tested that."
        return _Way("directly", what, by_mapping)
    public = _public(machine)
    if public is not None and not outside.not_dialed(AddressOrigin.INTERFACE):
        what = (
            f"Peers elsewhere can reach you directly at {public}, unless a firewall stops them. Nobody has tested that."
        )
        advice = f"Start the peer with `{_listen(public.version, router.port)} --ask`, and let TCP port {router.port} through."
        return _Way("unknown", what, advice)
    return None


def _other_way(
    machine: Machine, router: Router, outside: Outside, relays: Sequence[RelayContact], failed: str | None
) -> _Way:
    """Through a relay, or what would make one."""
    reserved = [one for one in relays if one.reservation is not None and not is_local(one)]
    if reserved:
        relay = next(filter(is_public, reserved), reserved[0])
        if is_public(relay):
            what = "Peers elsewhere can reach you through a relay only."
        else:
            what = "Peers elsewhere can reach you only through a relay that they can reach: it has no public address."
        if outside.nat_kind is NatKind.ENDPOINT_INDEPENDENT:
            what += " Hole punching may make the path direct then."
        return _Way(
            "through a relay only",
            what,
            f"Start the peer with {_via(relay)}.",
        )
    if all(ip.is_loopback for ip in machine.ips or ()):
        what = "Peers elsewhere cannot reach you at all: this machine is in no network."
        return _Way("not at all", what, "Connect it to a network. If this is a container, give it one.")
    public = _public(machine)
    if public is not None:
        what = f"Peers elsewhere cannot reach you at all: a firewall is in front of {public}."
        advice = f"Let TCP port {router.port} through, and start the peer with `{_listen(public.version, router.port)} --ask`."
        return _Way("not at all", what, advice)
    by_hand = f" Or {forward_by_hand(router)}." if router.address is not None else ""
    if failed is not None:
        advice = f"{failed}{by_hand}"
    else:
        advice = (
            "Run `stronghold-p2p relay` on a machine with a public address, and start the peer with --via-relay and its"
            f" address.{by_hand}"
        )
    if outside.is_settled:
        no_relay = "relay was found" if not relays else "relay that they can use was found"
        what = f"Peers elsewhere cannot reach you at all: no public address, forwarded port or {no_relay}."
        return _Way("not at all", what, advice)
    if outside.servers:
        what = "Whether peers elsewhere can reach you is unknown: those that were asked to dial you have not in time."
        return _Way("unknown", what, f"To find out, give it more time, as with --seconds 30. {advice}")
    what = "Whether peers elsewhere can reach you is unknown: nobody was asked to dial you"
    what += (
        ", and no given relay gives a reservation." if relays and not any(one.reservation for one in relays) else "."
    )
    find_out = "To find out, give a relay or a peer at a public address that offers AutoNAT v2, with --relay or --peer."
    return _Way("unknown", what, f"{advice} {find_out}" if failed is not None else f"{find_out} {advice}")


def _public(machine: Machine) -> Ip | None:
    return next((ip for ip in machine.ips or () if ip.is_global), None)


def _advice(dialed: Multiaddr, origin: AddressOrigin, router: Router) -> str:
    """How a peer is reached at an address of ours that somebody has dialed."""
    command = _listen(6 if dialed.components[0][0] == "ip6" else 4, router.port)
    announced = f" --announce {dialed}" if origin is AddressOrigin.ANNOUNCED else ""
    return f"Start the peer with `{command}{announced} --ask`."


def _via(relay: RelayContact) -> str:
    return f"`stronghold-p2p listen --via-relay {relay.contact.target} --ask`"


def _listen(version: int, port: int) -> str:
    """To which ``--ask`` is to be added: the command needs to be told who may ask what."""
    return f"stronghold-p2p listen {'/ip4/0.0.0.0' if version == 4 else '/ip6/::'}/tcp/{port}"
