"""``listen``: a peer that answers requests."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..addresses.target import parse_target
from ..config import Config
from ..ending import end_all, together
from ..errors import DialError, ListenError, PeerIdMismatch
from ..events import (
    AddressesChanged,
    Dropped,
    Event,
    HolePunchFailed,
    KeepFailed,
    LimitReached,
    Listener,
    PathUpgraded,
    PolicyFailed,
    PolicyLoaded,
    PortMapped,
    PortMappingFailed,
    ReachabilityChanged,
    RequestFailed,
    ReservationLost,
    ReservationMade,
    StateFailed,
)
from ..firewall.admission import RelayMode
from ..firewall.rules import FirewallRules, Rule
from ..identity import Keypair, PeerId
from ..multiaddr import Multiaddr
from ..peer import StrongholdP2p
from ..protocols.relay.reservations import FIRST_PAUSE, LAST_PAUSE
from ..requests import Request
from ..requests.codec import CodecName
from . import descriptors, output
from .ask.asker import Asker
from .ask.person import Person
from .ask.program import Program
from .audit.auditor import Auditing, auditing
from .audit.options import Audit, AuditPath, AuditRequired, AuditView, open_audit
from .command import GIVEN, PATIENCE, Codec, KeyFile, PassphraseFile, UsageError, load_key, time_option
from .console.place import parse_place
from .exec import Exec, parse_command
from .listening import (
    Announce,
    Certificate,
    CertificateKey,
    Place,
    TrustedProxy,
    check_that_none_listens,
    listen_on,
    places,
    serve,
    with_port,
)
from .names import load_policy, named
from .stdin import Lines
from .story import running

if TYPE_CHECKING:
    from .console.server import Console
    from .workers.member import Member

__all__ = ["listen", "on_hangup", "tell"]

logger = logging.getLogger("stronghold_p2p")

DEFAULT_ADDRESS = "/ip4/127.0.0.1/tcp/0"
DEFAULT_QUIET = Config().firewall_quiet or 0
MDNS_ADDRESS, MDNS_IPV6_ADDRESS = "/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"
"""The defaults with --mdns, the second where there is IPv6: whoever announces a peer wants it found from other machines."""

MAX_MESSAGE = 500
"""Characters that are shown of why a request failed: the message may quote what the remote sent."""

Handler = Callable[[Request[Any]], Awaitable[Any]]


def listen(
    context: typer.Context,
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ADDR",
            help=f"Where to listen (default: {DEFAULT_ADDRESS}; with --mdns: {MDNS_ADDRESS} and {MDNS_IPV6_ADDRESS}, on every"
            " interface).",
        ),
    ] = None,
    *,
    allow_all: Annotated[bool, typer.Option("--allow-all", help="Allow every request.")] = False,
    reject_all: Annotated[bool, typer.Option("--reject-all", help="Reject every request.")] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Decide yourself about requests that no rule decides.")] = False,
    ask_timeout: Annotated[
        float,
        time_option("Seconds to answer a question, before the request is rejected."),
    ] = PATIENCE,
    ask_quiet: Annotated[
        float,
        time_option(
            "Seconds without new questions about the same requests, after one that you did not answer; 0: none.",
            or_zero=True,
        ),
    ] = DEFAULT_QUIET,
    console: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDR:PORT]",
            help="Decide yourself on a page in the browser of this machine, at the printed link (default: a free port of"
            " 127.0.0.1). Needs the extra console.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read the rules from a policy file; reload it when it changes."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Store bans, and rules from answers, in this file; else they end with the peer."
        ),
    ] = None,
    audit: AuditPath = None,
    audit_required: AuditRequired = False,
    audit_view: AuditView = False,
    handler: Annotated[
        str,
        typer.Option(
            metavar="echo|exec:CMD",
            help="Respond with the request itself (echo), or with the output of CMD, which reads the request from stdin. CMD runs without a shell.",
        ),
    ] = "echo",
    handler_timeout: Annotated[
        float,
        time_option("Seconds for the handler to respond, before the request fails."),
    ] = PATIENCE,
    processes: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many commands run at once; further requests wait.")
    ] = 8,
    codec: Codec = "json",
    certificate: Certificate = None,
    certificate_key: CertificateKey = None,
    trusted_proxy: TrustedProxy = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR",
            help="Stay connected to this peer: an address; or its peer id or name, with known addresses or --mdns. Repeatable.",
        ),
    ] = None,
    announce: Announce = None,
    via_relay: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR",
            help="Be reached through the relay at this address, too, by peers that cannot dial this one directly. Repeatable.",
        ),
    ] = None,
    relay_mode: Annotated[
        RelayMode | None,
        typer.Option(
            help="Whether relays may join other peers with this one; never: no circuits; only: nothing but circuits, so that"
            " nobody learns its direct addresses. The policy goes first."
        ),
    ] = None,
    mdns: Annotated[
        bool,
        typer.Option("--mdns", help="Announce the peer to everybody on the local network, with its id and addresses."),
    ] = False,
    port_mapping: Annotated[
        bool,
        typer.Option(
            "--port-mapping", help="Have the router forward the ports, by PCP, NAT-PMP or UPnP, until the end."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Listen with N processes on the same port, on as many cores. One that ends is replaced. Linux only.",
        ),
    ] = None,
    worker: Annotated[int | None, typer.Option(hidden=True, help="The channel to the supervisor.")] = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> Coroutine[Any, Any, None]:
    """Run a peer that answers requests.

    Choose who decides about requests: --allow-all, --reject-all, --ask, --console or --policy FILE; the last three can be
    combined. You decide about requests that no rule decides, with --ask in the terminal, with --console in a browser.

    With --json, a program can decide. Each question is a line on stdout, {"event":"firewall","id":1,...}; the answer is
    a line on stdin, {"id":1,"answer":"allow"}, or "always" (everything), "reject", "reject_network", "ban"; or
    {"id":1,"answer":"allow","types":["Sign"],"for":3600}. The end of a question is a line {"event":"ended","id":1,
    "reason":...}. "reject_network" rejects all from the address of the peer for the time of --ask-quiet.

    With --workers, rules from answers, bans and rejected networks hold in all processes, rules and bans within a second. What
    one peer may have of requests is divided among them, at least one each; other limits are those of each. Each writes an audit
    of its own, FILE.1 to FILE.N. The first one alone announces, keeps peers connected, listens through relays and maps ports.
    One that ends, or does not react for a minute, is replaced.

    Ctrl-C or SIGTERM stops the peer after the running requests. SIGHUP reloads the policy file, and begins a new file for
    --audit if the one before was moved away.
    """
    asks = ask or console is not None
    if [allow_all, reject_all, asks or policy is not None].count(True) != 1:
        raise UsageError(
            "choose who decides about requests: --allow-all, --reject-all, --ask, --console or --policy FILE; only the last"
            " three can be combined"
        )
    if via_relay and relay_mode == "never":
        raise UsageError("--via-relay and --relay-mode never contradict each other: nobody could reach this peer there")
    at_stdin = ask or (console is None and (policy is not None or state is not None))
    if workers is not None and worker is None:
        if console is not None:
            raise UsageError("--console is a page of one process: use --ask with --workers, or leave --workers out")
        if workers > processes and handler.startswith("exec:"):
            raise UsageError(f"--workers {workers} needs as many --processes at least: each runs one command or more")
        if policy is not None and (policy.is_fifo() or policy.is_relative_to("/dev") or policy.is_relative_to("/proc")):
            raise UsageError("--workers needs a --policy that each can read: a file, not a pipe or a descriptor")
        from .workers.supervisor import supervise

        return supervise(
            context.meta[GIVEN],
            load_key(key, passphrase_file) or Keypair.generate(),
            workers,
            state=state,
            asks=at_stdin,
            quiet=ask_quiet or None,
            hangs_up=policy is not None or audit is not None,
        )
    member = None if worker is None else _member(worker)
    if member is not None:
        state, audit = member.state, None if audit is None else member.own(audit)
        addresses = member.addresses or addresses
        processes = max(processes // (workers or 1), 1)
        if not member.is_first:
            keep = via_relay = None
            mdns = port_mapping = False
    descriptors.raise_limit()
    default = MDNS_ADDRESS if mdns else DEFAULT_ADDRESS
    where = places(addresses or [default], certificate, certificate_key, trusted_proxy)
    answer = _handler(handler, codec, processes)
    config = Config(
        firewall_timeout=ask_timeout,
        firewall_quiet=ask_quiet or None,
        handler_timeout=handler_timeout,
        processes=workers or 1,
    )
    keypair = member.keypair if member is not None else load_key(key, passphrase_file) or Keypair.generate()
    given = load_policy(policy)
    known = state if state is not None and state.exists() else None
    kept, relays = ([named(text, given, known) for text in texts or ()] for texts in (keep, via_relay))
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(
        keypair=keypair,
        firewall=_rules(allow_all=allow_all, reject_all=reject_all, ask=asks),
        config=config,
        codec=codec,
        policy=given,
        state=state,
        mdns=mdns,
        port_mapping=port_mapping,
    )
    peer.on_request(answer)
    for address in kept:
        peer.keep(address)
    peer.set_relay_mode(relay_mode)
    output.name_peers(peer.name_of)
    made = _missing(state, audit)
    asker = _asker(peer, config) if at_stdin and member is None else None
    if at_stdin and member is not None:
        member.ask(peer)
    opened = open_audit(audit, keypair, required=audit_required, views=audit_view)
    return _listen(
        peer,
        where,
        announce or (),
        relays,
        asker,
        None if console is None else _console(peer, console, alone=asker is None),
        opened,
        made,
        member,
        reloads=policy is not None,
        mdns=mdns,
        by_ipv6_too=mdns and not addresses,
    )


async def _listen(
    peer: StrongholdP2p[Any, Any],
    where: Sequence[Place],
    announce: Sequence[str],
    relays: Sequence[str],
    asker: Asker | None,
    console: Console | None,
    audit: Audit | None,
    made: list[Path],
    member: Member | None,
    *,
    reloads: bool,
    mdns: bool,
    by_ipv6_too: bool,
) -> None:
    """``made`` are the files that are new: they are removed if the start fails."""
    try:
        async with (
            nullcontext() if member is None else member.joined(),
            auditing(peer, audit) as auditor,
            running(peer),
            together() as tasks,
        ):
            if auditor is not None:
                tasks.create_task(auditor.watch())
            if asker is not None:
                tasks.create_task(asker.run())
            without: set[PeerId] = set()
            tasks.create_task(tell(peer.events(), without))
            on_hangup(peer, auditor, reloads=reloads)
            if member is not None:
                tasks.create_task(member.run())
            if member is not None and not member.addresses:
                await check_that_none_listens(peer, where)
            await listen_on(peer, where, announce, reuse_port=member is not None)
            if by_ipv6_too:
                with suppress(ListenError):  # a machine may be without it
                    await peer.listen(MDNS_IPV6_ADDRESS, reuse_port=member is not None)
            down: dict[str, ListenError] = {}
            for relay in relays:
                try:
                    await peer.listen_via_relay(relay)
                except ListenError as error:
                    if _lasts(error):
                        raise
                    down[relay] = error
            if console is not None:
                console.open()
                tasks.create_task(console.run())
            made.clear()
            if auditor is not None:
                auditor.begin()
            output.note(f"peer id       {peer.peer_id}")
            if mdns:
                output.note("announced     by mDNS: each address to everybody on its network")

            def begun() -> None:
                if member is not None:
                    member.listening(_settled(where, peer.listeners))
                for relay, error in down.items():
                    if not _listens_through(peer, relay):  # at another of its addresses
                        tasks.create_task(_listen_later(peer, relay, error, without))

            await serve(peer, begun=begun)
    finally:
        # What was made is removed if it never listened, since nothing is in it.
        await end_all(peer.close, *(partial(path.unlink, missing_ok=True) for path in made))


async def _listen_later(peer: StrongholdP2p[Any, Any], relay: str, error: ListenError, without: set[PeerId]) -> None:
    """Tries again to listen through a relay that could not be reached; when there is a reservation, :func:`tell` tells."""
    relay_id, _ = parse_target(relay)
    logger.warning("%s; it is tried again", error)
    if output.is_json() and relay_id not in without:
        _tell_lost(relay_id, error)
    without.add(relay_id)
    told = False
    pause = FIRST_PAUSE
    while True:
        await asyncio.sleep(random.uniform(pause / 2, pause))  # not all at once, when a relay restarts
        if _listens_through(peer, relay):
            return
        try:
            await peer.listen_via_relay(relay)
        except ListenError as again:
            level = logging.DEBUG if told or not _lasts(again) else logging.WARNING
            logger.log(level, "%s; it is tried again", again)
            told = told or level == logging.WARNING
            pause = min(2 * pause, LAST_PAUSE)
        else:
            return


def _lasts(error: ListenError) -> bool:
    """Whether no time mends it: the relay refuses, or another peer is where it should be."""
    cause = error.__cause__
    if isinstance(cause, DialError) and cause.attempts:
        return all(isinstance(attempt.error, PeerIdMismatch) for attempt in cause.attempts)
    return not isinstance(cause, ConnectionError | TimeoutError)


def _listens_through(peer: StrongholdP2p[Any, Any], relay: str) -> bool:
    return parse_target(relay)[0] in {listener.address.relay for listener in peer.listeners}


def _member(descriptor: int) -> Member:
    from .workers.member import Member  # for those that listen --workers starts

    return Member(descriptor)


def _settled(where: Sequence[Place], listeners: Sequence[Listener]) -> list[str]:
    """The addresses that were given, with the ports that they were bound to; and those that were not given."""
    bound = [one.address.without_peer() for one in listeners if not one.address.is_relayed]
    given = [Multiaddr.of(place.address) for place in where]
    return [with_port(one, at) for one, at in zip(given, bound, strict=False)] + list(map(str, bound[len(given) :]))


def on_hangup(peer: StrongholdP2p[Any, Any], auditor: Auditing | None, *, reloads: bool) -> None:
    """Has SIGHUP reload the policy file, and go on with the audit in a new file if the one before was moved away."""
    loop = asyncio.get_running_loop()
    actions: list[Callable[[], object]] = []
    if auditor is not None:
        actions.append(auditor.reopen)
    if reloads:
        actions.append(lambda: loop.create_task(peer.reload_policy()))
    if actions:
        loop.add_signal_handler(signal.SIGHUP, lambda: [action() for action in actions])


def _asker(peer: StrongholdP2p[Any, Any], config: Config) -> Asker:
    """Whoever is at stdin answers."""
    if output.is_json():
        return Program(peer, Lines(), ban=peer.ban_peer)
    return Person(peer, Lines.of_person(), quiet=config.firewall_quiet, ban=peer.ban_peer)


def _console(peer: StrongholdP2p[Any, Any], place: str, *, alone: bool) -> Console:
    """``alone``: nobody at stdin is asked. Imported here, since others need not have what it needs."""
    where = parse_place(place)
    try:
        from .console.server import Console
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stronghold_p2p"):
            raise
        raise UsageError(
            f"--console needs {error.name}, of the extra console: run pip install '.[cli,console]' in a clone of the repository"
        ) from error
    return Console(peer, where, alone=alone)


def _missing(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None and not os.path.lexists(path)]


def _rules(*, allow_all: bool, reject_all: bool, ask: bool) -> FirewallRules:
    if allow_all:
        return FirewallRules.allow_all()
    if reject_all:
        return FirewallRules.reject_all()
    return FirewallRules(inbound=Rule.ASK if ask else None)


async def tell(events: AsyncIterator[Event], without: set[PeerId] | None = None) -> None:
    """Prints what becomes of our addresses, ports, paths, requests, policy and state. What failed, people read in the log.
    ``without``: the relays at which a reservation is news, since there was none."""
    without = set() if without is None else without
    async for event in events:
        match event:
            case RequestFailed(peer, error) if output.is_json():
                output.result({"event": "request_failed", **_failure(peer, error)})
            case AddressesChanged(addresses, new) if new or output.is_json():
                record = {"event": "addresses", "addresses": list(map(str, addresses))}
                output.result(record, "\n".join(f"listening on  {address}" for address in new))
            case ReservationLost(relay, error):
                without.add(relay)
                if output.is_json():
                    _tell_lost(relay, error)
            case ReservationMade(relay, addresses) if relay in without:
                without.discard(relay)
                record = {"event": "reservation", "relay": str(relay), "addresses": list(map(str, addresses))}
                output.result(record, "\n".join(f"listening on  {address}" for address in addresses))
            case PathUpgraded(connection, before):
                upgraded = {
                    "event": "path_upgraded",
                    **output.peer_record(connection.peer),
                    "address": str(connection.address),
                    "relay": str(before.relay),
                }
                text = f"direct now    {output.who(connection.peer)}, at {connection.address}; before through {before.relay}"
                output.result(upgraded, text)
            case HolePunchFailed(peer, error, attempt, last) if output.is_json():
                output.result({"event": "hole_punch_failed", **_failure(peer, error), "attempt": attempt, "last": last})
            case KeepFailed(peer, error) if output.is_json():
                output.result({"event": "keep_failed", **_failure(peer, error)})
            case PortMapped(address, protocol, expires) if output.is_json():
                output.result(
                    {"event": "port_mapped", "address": str(address), "protocol": protocol, "expires": expires}
                )
            case PortMappingFailed(address, reason):
                record = {"event": "port_mapping_failed", "address": str(address), "reason": reason}
                output.result(record, f"port mapping  {reason}")
            case ReachabilityChanged(address, reachability):
                record = {
                    "event": "reachability",
                    "address": str(address),
                    "state": reachability.state.value,
                    "how": reachability.how,
                }
                output.result(record, f"{reachability.state.value:<14}{address} ({reachability.how})")
            case LimitReached(limit, network, count) if output.is_json():
                output.result({"event": "limit", "limit": limit, "network": network, "count": count})
            case Dropped(count) if output.is_json():
                output.result({"event": "dropped", "count": count})
            case PolicyLoaded():
                output.result({"event": "policy", "path": event.path}, f"policy        {event.path} was reloaded")
            case PolicyFailed() | StateFailed() if output.is_json():
                output.error(event.error)


def _tell_lost(relay: PeerId, error: Exception | None) -> None:
    reason = "the connection has ended" if error is None else output.printable(str(error), MAX_MESSAGE)
    output.result({"event": "reservation_lost", "relay": str(relay), "message": reason})


def _failure(peer: PeerId, error: Exception) -> dict[str, str | None]:
    return {
        **output.peer_record(peer),
        "error": type(error).__name__,
        "message": output.printable(str(error), MAX_MESSAGE),
    }


def _handler(description: str, codec: CodecName, processes: int) -> Handler:
    kind, _, command = description.partition(":")
    if description == "echo":
        return _echo
    if kind != "exec":
        raise UsageError(f"unknown handler {description!r}: expected echo or exec:CMD")
    return Exec(parse_command(command), codec=codec, processes=processes)


async def _echo(request: Request[Any]) -> Any:
    return request.body
