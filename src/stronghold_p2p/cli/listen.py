"""``listen``: a peer that answers requests."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import Config
from ..events import Event, PolicyFailed, PolicyLoaded, StateFailed
from ..firewall.policy import Policy
from ..firewall.rules import FirewallRules, Rule
from ..peer import StrongholdP2p
from ..requests import Request
from ..requests.codec import CodecName
from . import output
from .ask import ANSWER_TIMEOUT, Person, Program
from .audit import MAX_WAITING, AuditFile, end_audit, open_audit, write_audit
from .command import Codec, KeyFile, UsageError, load_key
from .exec import Exec, parse_command

__all__ = ["listen", "listen_on"]

DEFAULT_ADDRESS = "/ip4/127.0.0.1/tcp/0"

Handler = Callable[[Request[Any]], Awaitable[Any]]


def listen(
    addresses: Annotated[
        list[str] | None, typer.Argument(metavar="[ADDR]...", help=f"Where to listen (default: {DEFAULT_ADDRESS}).")
    ] = None,
    *,
    allow_all: Annotated[bool, typer.Option("--allow-all", help="The firewall lets every request in.")] = False,
    reject_all: Annotated[bool, typer.Option("--reject-all", help="The firewall rejects every request.")] = False,
    ask: Annotated[
        bool, typer.Option("--ask", help="You are asked about every request, on the terminal; see --json, too.")
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The firewall does as a file says; read again when it changes and on SIGHUP."
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep rules from answers, and bans, in a file.")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append each decision of the firewall to a file, as JSON.")
    ] = None,
    handler: Annotated[
        str,
        typer.Option(
            metavar="echo|exec:CMD",
            help="Answer with the body as it came, or with what CMD writes to stdout; it gets the body on stdin.",
        ),
    ] = "echo",
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="How many CMDs run at once; others wait.")] = 8,
    codec: Codec = "json",
    key: KeyFile = None,
) -> Coroutine[Any, Any, None]:
    """Run a peer until Ctrl-C. Exactly one of --allow-all, --reject-all, --ask and --policy must be given.

    Whom the firewall does not know what to do about, it asks: a question is answered on the terminal within 60 s. With
    --json it is a line {"event":"firewall","id":1,...} on stdout, and a line on stdin answers it,
    {"id":1,"answer":"allow"}, or "always", "reject", "ban".
    """
    if [allow_all, reject_all, ask, policy is not None].count(True) != 1:
        raise UsageError("give exactly one of --allow-all, --reject-all, --ask and --policy")
    asks = ask or policy is not None or state is not None
    answer = _handler(handler, codec, processes)
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(
        keypair=load_key(key),
        firewall=_rules(allow_all=allow_all, reject_all=reject_all, ask=ask),
        config=Config(firewall_timeout=ANSWER_TIMEOUT) if asks else None,
        codec=codec,
        # A pipe is read here, once: it may take its time, and cannot be looked at again.
        policy=Policy.load(policy, wait=True) if policy is not None and policy.is_fifo() else policy,
        state=state,
    )
    peer.on_request(answer)
    opened = None if audit is None else open_audit(audit)
    return _listen(peer, addresses or [DEFAULT_ADDRESS], opened, asks=asks, reloads=policy is not None)


async def _listen(
    peer: StrongholdP2p[Any, Any], addresses: list[str], audit: AuditFile | None, *, asks: bool, reloads: bool
) -> None:
    auditing = None
    if audit is not None:
        # A flood must not wash away what was before it.
        decisions = peer.events(buffer=MAX_WAITING, when_full="drop_newest", decisions=True)
        auditing = asyncio.create_task(write_audit(audit, decisions))
    try:
        await peer.start()
        async with asyncio.TaskGroup() as tasks:
            if auditing is not None:
                tasks.create_task(_watch(auditing))
            if asks:
                tasks.create_task((Program if output.is_json() else Person)(peer).run())
                tasks.create_task(_tell(peer.events()))
            if reloads:
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(peer.reload_policy()))
            output.note(f"peer id       {peer.peer_id}")
            await listen_on(peer, addresses)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        await peer.close()
        if audit is not None and auditing is not None:
            await end_audit(auditing, audit)


async def listen_on(peer: StrongholdP2p[Any, Any], addresses: list[str]) -> None:
    """Listen on all of them and print where the peer can be dialled, until Ctrl-C cancels it."""
    for address in addresses:
        await peer.listen(address)
    for listener in peer.listeners:
        for dialable in listener.addresses:
            output.result({"event": "listening", "address": str(dialable)}, f"listening on  {dialable}")
    gc.collect()
    gc.freeze()  # what the start has made stays: a full collection would halt every request for some 15 ms to look at it
    await asyncio.get_running_loop().create_future()


def _rules(*, allow_all: bool, reject_all: bool, ask: bool) -> FirewallRules:
    if allow_all:
        return FirewallRules.allow_all()
    if reject_all:
        return FirewallRules.reject_all()
    return FirewallRules(inbound=Rule.ASK if ask else None)


async def _watch(auditing: asyncio.Task[None]) -> None:
    """Raises what ends the audit: without it, nothing is decided."""
    await asyncio.shield(auditing)


async def _tell(events: AsyncIterator[Event]) -> None:
    """Prints what becomes of the policy and the state. What failed, people read in the log."""
    async for event in events:
        match event:
            case PolicyLoaded():
                output.result({"event": "policy", "path": event.path}, f"policy        {event.path} is in force anew")
            case PolicyFailed() | StateFailed() if output.is_json():
                output.error(event.error)


def _handler(description: str, codec: CodecName, processes: int) -> Handler:
    kind, _, command = description.partition(":")
    if description == "echo":
        return _echo
    if kind != "exec":
        raise UsageError(f"no such handler: {description!r}; there are echo and exec:CMD")
    return Exec(parse_command(command), codec=codec, processes=processes)


async def _echo(request: Request[Any]) -> Any:
    return request.body
