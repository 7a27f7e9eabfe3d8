"""``relay``: forwards between peers that cannot dial each other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..ending import together
from ..events import PathLimits
from ..firewall.policy import Policy
from ..identity import Keypair, PeerId
from ..peer import StrongholdP2p
from ..protocols.relay.limits import RelayServer
from . import descriptors, output, paths
from .audit.auditor import auditing
from .audit.options import Audit, AuditPath, AuditRequired, open_audit
from .command import KeyFile, PassphraseFile, load_key, time_option
from .listen import on_hangup, tell
from .listening import Announce, Certificate, CertificateKey, Place, TrustedProxy, listen_on, places, serve
from .names import load_policy, named
from .story import running

__all__ = ["relay"]

DEFAULT_ADDRESS = "/ip4/0.0.0.0/tcp/4001"
DEFAULTS = RelayServer()


def relay(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="ADDR", help=f"Where to listen (default: {DEFAULT_ADDRESS}, on every interface)."),
    ] = None,
    *,
    reserve: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="Only this peer, by its id or its name in the policy, may reserve a place, and so be reached. Repeatable.",
        ),
    ] = None,
    connect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER", help="Only this peer may connect to those that have reserved; as for --reserve. Repeatable."
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A policy file: who may connect, reserve, and be reached; reloaded when it changes."
        ),
    ] = None,
    unlimited: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER", help="Do not limit the circuits from and to this peer; as for --reserve. Repeatable."
        ),
    ] = None,
    max_reservations: Annotated[
        int, typer.Option(min=1, metavar="N", help="Peers with a reservation at once.")
    ] = DEFAULTS.max_reservations,
    max_per_network: Annotated[
        int, typer.Option(min=1, metavar="N", help="The same from one IPv4 address, or IPv6 /48.")
    ] = DEFAULTS.max_reservations_per_network,
    max_circuits: Annotated[int, typer.Option(min=1, metavar="N", help="Circuits at once.")] = DEFAULTS.max_circuits,
    max_seconds: Annotated[
        float, time_option("Seconds that a circuit lasts; 0: no limit.", or_zero=True)
    ] = DEFAULTS.max_seconds or 0,
    max_bytes: Annotated[
        int, typer.Option(min=0, metavar="N", help="Bytes of a circuit in each direction; 0: no limit.")
    ] = DEFAULTS.max_bytes or 0,
    report: Annotated[
        float,
        time_option(
            "Seconds between two reports of what the relay does and has done, the last one at its end; 0: none.",
            or_zero=True,
        ),
    ] = 0,
    audit: AuditPath = None,
    audit_required: AuditRequired = False,
    certificate: Certificate = None,
    certificate_key: CertificateKey = None,
    trusted_proxy: TrustedProxy = None,
    announce: Announce = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> Coroutine[Any, Any, None]:
    """Run a relay, which forwards between peers that cannot dial each other.

    A peer reserves a place with "listen --via-relay ADDR", and is reached at ADDR/p2p-circuit/p2p/PEER. The relay sees who
    talks with whom, and how much and when, but not what: the two encrypt end to end.

    Without --reserve, --connect and --policy, it serves everybody, within its limits. Ctrl-C or SIGTERM stops it when its
    circuits have ended, after 5 s at most. SIGHUP reloads the policy file, and
    begins a new file for --audit if the one before was moved away.
    """
    descriptors.raise_limit()
    where = places(addresses or [DEFAULT_ADDRESS], certificate, certificate_key, trusted_proxy)
    rules = load_policy(policy)
    server = RelayServer(
        max_reservations=max_reservations,
        max_reservations_per_network=max_per_network,
        max_circuits=max_circuits,
        max_seconds=max_seconds or None,
        max_bytes=max_bytes or None,
        reserve=_peers(reserve, rules) if reserve else None,
        connect=_peers(connect, rules) if connect else None,
        unlimited=_peers(unlimited or (), rules),
    )
    keypair = load_key(key, passphrase_file)
    if keypair is None:
        output.note("without --key, the relay has another identity at each start, and peers do not find it again")
    keypair = keypair or Keypair.generate()
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(keypair=keypair, relay=server, policy=rules)
    output.name_peers(peer.name_of)
    opened = open_audit(audit, keypair, required=audit_required)
    return _relay(peer, server, where, announce or (), report, opened, reloads=policy is not None)


async def _relay(
    peer: StrongholdP2p[Any, Any],
    server: RelayServer,
    where: Sequence[Place],
    announce: Sequence[str],
    report: float,
    audit: Audit | None,
    *,
    reloads: bool,
) -> None:
    try:
        async with auditing(peer, audit) as auditor, running(peer), together() as tasks:
            if auditor is not None:
                tasks.create_task(auditor.watch())
            tasks.create_task(tell(peer.events()))
            on_hangup(peer, auditor, reloads=reloads)
            await listen_on(peer, where, announce)
            if auditor is not None:
                auditor.begin()
            output.note(f"peer id       {peer.peer_id}")
            limits = {one.name: getattr(server, one.name) for one in fields(server) if "reason" in one.metadata}
            output.result({"event": "limits", **limits}, _in_words(server))
            if report:
                tasks.create_task(_report(peer, report))
            await serve(peer)
    finally:
        if report:
            _show(peer)


async def _report(peer: StrongholdP2p[Any, Any], interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        _show(peer)


def _show(peer: StrongholdP2p[Any, Any]) -> None:
    status = peer.relay_status
    assert status is not None
    counted = {one.name: getattr(status, one.name) for one in fields(status)}
    refused = ", ".join(f"{why} {count}" for why, count in status.refusals.items())
    output.result(
        {"event": "relay", **counted, "refusals": dict(status.refusals)},
        f"relay         {status.reservations} reservations, {status.circuits} circuits; in all {status.reservations_made} and"
        f" {status.circuits_made}, {status.bytes:,} bytes; refused: {refused or 'nothing'}",
    )


def _peers(texts: Sequence[str], policy: Policy | Path | None) -> frozenset[PeerId]:
    return frozenset(PeerId.parse(named(text, policy)) for text in texts)


def _in_words(server: RelayServer) -> str:
    circuit = paths.limits_in_words(PathLimits(server.max_seconds, server.max_bytes))
    return (
        f"reservations  at most {server.max_reservations}, {server.max_reservations_per_network} of one network,"
        f" each for {server.reservation_ttl:g} s\n"
        f"circuits      at most {server.max_circuits}, {server.max_circuits_per_peer} of one peer, each for {circuit}\n"
        f"in a minute   {server.max_reservations_per_minute_per_peer} reservations of one peer,"
        f" {server.max_reservations_per_minute_per_network} of one network;"
        f" {server.max_circuits_per_minute_per_peer} circuits from one peer,"
        f" {server.max_circuits_per_minute_per_network} from one network"
    )
