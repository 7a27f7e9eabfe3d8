"""What follows from all findings together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ..events import NatKind, PortMapped
from .facts import Contact, Machine, Outside, RelayContact, Router
from .finding import Diagnosis, Finding, Reach
from .remotes import is_public
from .router import forward_by_hand

__all__ = ["summarize"]

OF_PEER: Final = {"peer", "peer_by_relay", "ping", "requests"}
"""Checks whose advice comes first: who gives a peer wants to reach that."""


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
) -> Diagnosis:
    """``contacts`` are the attempts to reach the given peer; empty: none was given."""
    way = _best_way(machine, router, outside, relays)
    what, advice = way.what, way.advice
    if contacts:
        what = f"{_reached(contacts)} {what}"
        of_peer = (one.advice for one in findings if one.check in OF_PEER and one.verdict == "problem")
        advice = next(filter(None, of_peer), advice)
    return Diagnosis(tuple(findings), way.reach, what, advice)


def _reached(contacts: Sequence[Contact]) -> str:
    peer = contacts[0].target.peer
    paths = [one.path for one in contacts if one.path is not None]
    if not paths:
        return f"You cannot reach the peer {peer}."
    if any(path.relay is None for path in paths):
        return f"You can reach the peer {peer} directly."
    return f"You can reach the peer {peer} through a relay only."


def _best_way(machine: Machine, router: Router, outside: Outside, relays: Sequence[RelayContact]) -> _Way:
    port = router.port
    ips = machine.ips or ()
    if isinstance(router.mapping, PortMapped):
        what = "Peers elsewhere can reach you directly: the router forwards a port on request."
        advice = f"Start the peer with `stronghold-p2p listen /ip4/0.0.0.0/tcp/{port} --port-mapping`."
        return _Way("directly", what, advice)
    reserved = [one for one in relays if one.reservation is not None]
    public = next((ip for ip in ips if ip.is_global), None)
    if public is not None:
        what = (
            f"Peers elsewhere can reach you directly at {public}, if no firewall is in between, which was not tested."
        )
        where = "/ip4/0.0.0.0" if public.version == 4 else "/ip6/::"
        advice = f"Start the peer with `stronghold-p2p listen {where}/tcp/{port}`, and let TCP port {port} through."
        return _Way("unknown", what, advice)
    if reserved:
        relay = next(filter(is_public, reserved), reserved[0])
        what = "Peers elsewhere can reach you through a relay only."
        if outside.nat_kind is NatKind.ENDPOINT_INDEPENDENT:
            what += " Hole punching may make the path direct then."
        if not is_public(relay):
            what = "Peers elsewhere can reach you only through a relay that they can reach: it has no public address."
        advice = f"Start the peer with `stronghold-p2p listen --via-relay {relay.contact.target}`."
        return _Way("through a relay only", what, advice)
    if all(ip.is_loopback for ip in ips):
        what = "Peers elsewhere cannot reach you at all: this machine is in no network."
        return _Way("not at all", what, "Connect it to a network. If this is a container, give it one.")
    what = "Peers elsewhere cannot reach you at all: no public address, forwarded port or relay was found."
    by_hand = f" Or {forward_by_hand(router)}." if router.address is not None else ""
    advice = (
        "Run `stronghold-p2p relay` on a machine with a public address, and start the peer with --via-relay and its"
        f" address.{by_hand}"
    )
    return _Way("not at all", what, advice)
