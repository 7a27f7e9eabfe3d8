"""Runs a command: the one place where an exception becomes a message and an exit status."""

from __future__ import annotations

import difflib
import importlib
import signal
from collections.abc import Sequence

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
from . import INTERRUPTED, output
from .command import Terminated, UsageError, add_command, terminate
from .commands import COMMANDS

__all__ = ["run_command"]

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
TERMINATED = 143
"""By SIGTERM, before there was a result. What runs until it is stopped ends with 0 then: for it, that is no failure."""


def run_command(arguments: Sequence[str]) -> int:
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
        name = _name(arguments)
        return (
            _parser(name, arguments[1:])(arguments[1:], prog_name=f"stronghold-p2p {name}", standalone_mode=False) or 0
        )
    except typer.TyperException as error:  # the parser's
        output.error(UsageError(error.format_message()))
        return EXIT_STATUS[UsageError]
    except Exception as error:  # noqa: BLE001  a command ends with a message and a status, whatever it meets
        output.error(error)
        return next((status for kind, status in EXIT_STATUS.items() if isinstance(error, kind)), 1)


def _name(arguments: Sequence[str]) -> str:
    """The command's. Raises UsageError if there is none of that name."""
    if not arguments:
        raise UsageError("expected a command: --help lists them")
    name = arguments[0]
    if name.startswith("-"):
        raise UsageError(f"expected a command before {name}: --help lists them")
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, 1)
        raise UsageError(f"no command {name}: " + (f"did you mean {similar[0]}?" if similar else "--help lists them"))
    return name


def _parser(name: str, rest: Sequence[str]) -> typer.Typer:
    """Imports the command, and nothing of the others. Raises UsageError if it is a group, and ``rest`` names none of it."""
    command = COMMANDS[name]
    found = getattr(importlib.import_module(command.module, __package__), name)
    if isinstance(found, typer.Typer):
        if not rest:
            raise UsageError(f"expected a command after {name}: --help lists them")
        return found
    parser = typer.Typer(add_completion=False, rich_markup_mode=None)  # plain help: rich takes long to import
    add_command(parser, found, name, is_service=command.is_service)
    return parser
