"""``listen``: a peer that answers requests."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import typer

from ..codec import CodecName
from ..firewall import FirewallRules
from ..peer import StrongholdP2p
from ..requests import Request
from . import output
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
    """Run a peer until Ctrl-C. Exactly one of --allow-all and --reject-all must be given."""
    if allow_all == reject_all:
        raise UsageError("give exactly one of --allow-all and --reject-all")
    firewall = FirewallRules.allow_all() if allow_all else FirewallRules.reject_all()
    async with StrongholdP2p(keypair=load_key(key), firewall=firewall, codec=codec) as peer:
        peer.on_request(_handler(handler, codec, processes))
        output.note(f"peer id       {peer.peer_id}")
        await listen_on(peer, addresses or [DEFAULT_ADDRESS])


async def listen_on(peer: StrongholdP2p[Any, Any], addresses: list[str]) -> None:
    """Listen on all of them and print where the peer can be dialled, until Ctrl-C cancels it."""
    for address in addresses:
        await peer.listen(address)
    for listener in peer.listeners:
        for dialable in listener.addresses:
            output.result({"event": "listening", "address": str(dialable)}, f"listening on  {dialable}")
    await asyncio.get_running_loop().create_future()


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
            answer, _ = await process.communicate(body)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise CommandFailed(self._arguments[0], process.returncode)
        return answer


class CommandFailed(Exception):
    """The command of an ``exec`` handler ended with another status than 0."""

    def __init__(self, command: str, status: int) -> None:
        super().__init__(f"{command} ended with status {status}")
