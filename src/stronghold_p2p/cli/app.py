"""All commands, and the one place where an exception becomes a message and an exit status."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Annotated

import typer

from ..errors import (
    DialError,
    InvalidAddress,
    InvalidName,
    NoResponse,
    NotPermitted,
    ProtocolNotSupported,
    RequestTimeout,
    StrongholdError,
)
from . import output
from .approve import approve
from .audit.command import audit
from .bench import bench
from .command import Terminated, UsageError, add_command, terminate
from .demo import demo
from .discover import discover
from .doctor import doctor
from .firewall import firewall
from .key import key
from .listen import listen
from .perf import perf
from .relay import relay
from .request import ping, request
from .version import version

__all__ = ["run"]

EXIT_STATUS: dict[type[StrongholdError], int] = {
    UsageError: 2,
    InvalidAddress: 2,
    InvalidName: 2,
    DialError: 3,
    RequestTimeout: 4,
    NotPermitted: 5,
    ProtocolNotSupported: 5,
    NoResponse: 5,
}
"""Every other error is 1."""
INTERRUPTED = 130
"""By Ctrl-C: 128 and the number of SIGINT, as shells have it."""
TERMINATED = 143
"""By SIGTERM, before there was a result. What runs until it is stopped ends with 0 then: for it, that is no failure."""

app = typer.Typer(
    name="stronghold-p2p",
    help="End-to-end encrypted requests between peers, on the libp2p protocols, behind a firewall.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: importing rich would double the time until it is there
)

add_command(app, demo)
add_command(app, listen, is_service=lambda arguments: True)
add_command(app, approve, is_service=lambda arguments: True)
add_command(app, relay, is_service=lambda arguments: True)
add_command(app, request)
add_command(app, ping)
add_command(app, discover)
add_command(app, doctor)
add_command(app, perf, is_service=lambda arguments: bool(arguments["run_server"]))
add_command(app, bench)
app.add_typer(key)
app.add_typer(firewall)
app.add_typer(audit)


def _version(wanted: bool) -> None:
    if wanted:
        output.note(version())
        raise typer.Exit


@app.callback()
def _before_every_command(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED


def _run(arguments: Sequence[str]) -> int:
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    # Read here, not by the parser: what is wrong with the arguments is to be told as JSON, too.
    output.configure(json="--json" in options, debug="--debug" in options)
    try:
        return app(arguments, prog_name="stronghold-p2p", standalone_mode=False) or 0
    except typer.TyperException as error:  # the parser's
        output.error(UsageError(error.format_message()))
        return EXIT_STATUS[UsageError]
    except Exception as error:  # noqa: BLE001  a command ends with a message and a status, whatever it meets
        output.error(error)
        return next((status for kind, status in EXIT_STATUS.items() if isinstance(error, kind)), 1)
