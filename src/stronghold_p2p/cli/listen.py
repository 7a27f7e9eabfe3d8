"""``listen``: a peer that answers requests."""

from __future__ import annotations

import asyncio
import gc
import os
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ..config import Config
from ..events import Event, PolicyFailed, PolicyLoaded, StateFailed
from ..firewall.rules import FirewallRules, Rule
from ..peer import StrongholdP2p
from ..requests import Request
from ..requests.codec import CodecName
from . import output
from .ask import ANSWER_TIMEOUT, Person, Program
from .audit import MAX_WAITING, open_audit, write_audit
from .command import Codec, KeyFile, UsageError, load_key

__all__ = ["CommandFailed", "Exec", "listen", "listen_on"]

DEFAULT_ADDRESS = "/ip4/127.0.0.1/tcp/0"

Handler = Callable[[Request[Any]], Awaitable[Any]]


async def listen(
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
) -> None:
    """Run a peer until Ctrl-C. Exactly one of --allow-all, --reject-all, --ask and --policy must be given.

    Whom the firewall does not know what to do about, it asks: a question is answered on the terminal within 60 s. With
    --json it is a line {"event":"firewall","id":1,...} on stdout, and a line on stdin answers it,
    {"id":1,"answer":"allow"}, or "always", "reject", "ban".
    """
    if [allow_all, reject_all, ask, policy is not None].count(True) != 1:
        raise UsageError("give exactly one of --allow-all, --reject-all, --ask and --policy")
    asks = ask or policy is not None or state is not None
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(
        keypair=load_key(key),
        firewall=_rules(allow_all=allow_all, reject_all=reject_all, ask=ask),
        config=Config(firewall_timeout=ANSWER_TIMEOUT) if asks else None,
        codec=codec,
        policy=policy,
        state=state,
    )
    peer.on_request(_handler(handler, codec, processes))
    auditing = None
    if audit is not None:
        # A flood must not wash away what was before it.
        decisions = peer.events(buffer=MAX_WAITING, when_full="drop_newest", decisions=True)
        auditing = asyncio.create_task(write_audit(open_audit(audit), decisions))
    try:
        await peer.start()
        async with asyncio.TaskGroup() as tasks:
            if auditing is not None:
                tasks.create_task(_watch(auditing))
            if asks:
                tasks.create_task((Program if output.is_json() else Person)(peer).run())
            if policy is not None or state is not None:
                tasks.create_task(_tell(peer.events()))
            if policy is not None:
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(peer.reload_policy()))
            output.note(f"peer id       {peer.peer_id}")
            await listen_on(peer, addresses or [DEFAULT_ADDRESS])
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        await peer.close()
        if auditing is not None:
            await auditing  # to the last decision: it ends with the peer's events


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
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the handler's command cannot be split: {error}") from error
    if not arguments:
        raise UsageError("the handler has no command: exec:CMD")
    if shutil.which(arguments[0]) is None:
        raise UsageError(f"the handler's command cannot be run: {arguments[0]!r} is no program here")
    return Exec(arguments, raw=codec == "raw", processes=processes)


async def _echo(request: Request[Any]) -> Any:
    return request.body


class Exec:
    """Runs a command for each request, never more than ``processes`` at once."""

    def __init__(self, arguments: list[str], *, raw: bool, processes: int) -> None:
        self._arguments = arguments
        self._raw = raw
        self._free = asyncio.Semaphore(processes)

    async def __call__(self, request: Request[Any]) -> Any:
        body = request.body if self._raw else msgspec.json.encode(request.body)
        async with self._free:
            answer = await self._run(body)
        return answer if self._raw else msgspec.json.decode(answer)

    async def _run(self, body: bytes) -> bytes:
        pipe = asyncio.subprocess.PIPE
        # A process group of its own: Ctrl-C does not reach it, so that running requests can end, and what it has
        # started ends with it.
        process = await asyncio.create_subprocess_exec(
            *self._arguments, stdin=pipe, stdout=pipe, start_new_session=True
        )
        try:
            answer = await _communicate(process, body)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise CommandFailed(self._arguments[0], process.returncode)
        return answer


async def _communicate(process: asyncio.subprocess.Process, body: bytes) -> bytes:
    """As the method of that name, for a command that ends without reading its stdin, too: uvloop has a RuntimeError for
    that, which the method lets through."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    async def feed() -> None:
        with suppress(ConnectionError, RuntimeError):
            stdin.write(body)
            await stdin.drain()
            stdin.close()

    _, answer = await asyncio.gather(feed(), stdout.read())
    await process.wait()
    return answer


class CommandFailed(Exception):
    """The command of an ``exec`` handler ended with another status than 0."""

    def __init__(self, command: str, status: int) -> None:
        super().__init__(f"{command} ended with status {status}")
