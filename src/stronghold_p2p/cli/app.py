"""All commands, and the one place where an exception becomes a message and an exit status."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import typer

from ..errors import (
    DialError,
    InvalidAddress,
    NoResponse,
    NotPermitted,
    ProtocolNotSupported,
    RequestTimeout,
    StrongholdError,
)
from . import output
from .bench import bench
from .command import UsageError, command
from .demo import demo
from .firewall import firewall
from .key import key
from .listen import listen
from .perf import perf
from .request import ping, request

__all__ = ["run"]

EXIT_STATUS: dict[type[StrongholdError], int] = {
    UsageError: 2,
    InvalidAddress: 2,
    DialError: 3,
    RequestTimeout: 4,
    NotPermitted: 5,
    ProtocolNotSupported: 5,
    NoResponse: 5,
}
"""Every other error is 1."""
INTERRUPTED = 130

app = typer.Typer(
    name="stronghold-p2p",
    help="End-to-end encrypted requests between peers, on the libp2p protocols, behind a firewall.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: importing rich would double the time until it is there
)
app.command()(command(demo))
app.add_typer(key)
app.add_typer(firewall)
for function in (listen, request, ping, perf, bench):
    app.command()(command(function))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, also while no loop runs
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


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
