"""What commands share: the flags of all of them, the event loop they run on, and the options that several have."""

from __future__ import annotations

import asyncio
import functools
import getpass
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import StrongholdError
from ..identity import Keypair
from ..requests.codec import CodecName
from . import output
from .text import escaped

__all__ = ["LOOP", "Address", "Codec", "KeyFile", "UsageError", "command", "load_key", "passphrase"]

try:
    import uvloop
except ImportError:
    LOOP, new_event_loop = "asyncio", asyncio.new_event_loop
else:
    LOOP, new_event_loop = "uvloop", uvloop.new_event_loop

PASSPHRASE_VARIABLE = "STRONGHOLD_P2P_PASSPHRASE"

Address = Annotated[str, typer.Argument(metavar="ADDR", help="A multiaddress that ends in /p2p/<peer id>.")]
Codec = Annotated[CodecName, typer.Option(help="The form of bodies; a peer serves one.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The identity's key file (default: a new identity).")
]

FLAGS = {
    "json": typer.Option("--json", help="Print one JSON object a line, and nothing else."),
    "debug": typer.Option("--debug", help="Show the whole log, and an error's traceback, on stderr."),
}


class UsageError(StrongholdError):
    """The command cannot be run as it was written."""


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """Give a command the flags that all have, and run the coroutine that it returns, on uvloop if that is installed.

    What may block (stdin, a passphrase, opening what may be a pipe) a command does before it returns that coroutine:
    there a signal ends it at once, while under a loop it would wait for the loop to run on.
    """

    @functools.wraps(function)
    def run(*, json: bool, debug: bool, **arguments: Any) -> None:
        work = function(**arguments)
        if not inspect.iscoroutine(work):
            return

        async def run_until_terminated() -> None:
            # As Ctrl-C, on which the runner cancels the command, which closes in order; but not by way of SIGINT, which
            # a job in a script's background ignores.
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            async with output.in_background():
                await work

        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(run_until_terminated())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    signature = inspect.signature(function, eval_str=True)
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
        for name, option in FLAGS.items()
    ]
    parameters = [*signature.parameters.values(), *flags]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def load_key(path: Path | None) -> Keypair | None:
    """Read an identity, asking for the passphrase if the file is encrypted.

    Raises:
        KeyFileError: the file cannot be read, or the passphrase does not fit.
        UsageError: the file is encrypted, and nobody can be asked.
    """
    if path is None:
        return None
    return Keypair.load(path, lambda: passphrase(f"Passphrase of {path}: "))


def passphrase(*prompts: str) -> str:
    """The passphrase from the environment, or from the terminal, where every prompt must be answered alike.

    Raises:
        UsageError: there is neither, it is empty, or the answers differ.
    """
    answers = [os.environ.get(PASSPHRASE_VARIABLE)]
    if answers == [None]:
        if not sys.stderr.isatty():
            raise UsageError(f"a passphrase is needed: set {PASSPHRASE_VARIABLE}, or run in a terminal")
        try:
            answers = [getpass.getpass(escaped(prompt)) for prompt in prompts]
        except EOFError:
            raise UsageError("the passphrase was not entered") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"the passphrase is no text in the terminal's encoding, {error.encoding}") from None
    first, *others = answers
    if not first:
        raise UsageError("the passphrase is empty")
    if any(other != first for other in others):
        raise UsageError("the passphrases differ")
    return first
