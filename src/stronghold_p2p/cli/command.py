"""Shared by all commands: common flags and options, and the event loop."""

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
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from ..errors import StrongholdError
from ..identity import Keypair
from ..requests.codec import CodecName
from . import output
from .text import escaped

__all__ = [
    "GIVEN",
    "PATIENCE",
    "Codec",
    "KeyFile",
    "PassphraseFile",
    "Terminated",
    "UsageError",
    "add_command",
    "group",
    "load_key",
    "passphrase",
    "terminate",
    "time_option",
]

PASSPHRASE_VARIABLE = "STRONGHOLD_P2P_PASSPHRASE"
MAX_PASSPHRASE = 4096
"""Bytes that are read of a passphrase file: it may be a device without an end."""

PATIENCE = 60.0
"""Seconds. A person reads a question before answering it, so a question stays open that long, and a requester waits that
long for its response. One number for both: a requester that gives up first leaves the person with nobody to answer, and
one that waits longer waits in vain. A handler has as much, since nobody waits for it any longer."""

MAX_SECONDS = 30 * 86_400.0
"""The longest time that an option takes: event loops cannot count for ever."""


def time_option(help: str, *, or_zero: bool = False) -> Any:
    """An option that takes a time, in seconds; ``or_zero``: or 0."""
    return typer.Option(metavar="S", help=help, callback=_check_seconds_or_zero if or_zero else _check_seconds)


def _check_seconds(value: float) -> float:
    return _checked(value, "above 0")


def _check_seconds_or_zero(value: float) -> float:
    return value if value == 0 else _checked(value, "0 or more")


def _checked(value: float, least: str) -> float:
    if not 0 < value <= MAX_SECONDS:
        raise typer.BadParameter(f"expected seconds, {least} and at most {MAX_SECONDS:,.0f}, not {value:g}")
    return value


Codec = Annotated[CodecName, typer.Option(help="Encoding of requests and responses; both peers must use the same.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The key file of this peer (default: a new identity).")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"Read the key file's passphrase from the first line of FILE (default: ${PASSPHRASE_VARIABLE}, or a prompt).",
    ),
]

GIVEN = "stronghold_p2p.given"
"""Under this name a context has the arguments of its command, as they were given."""

FLAGS = {
    "json": typer.Option("--json", help="Print JSON, one object per line."),
    "debug": typer.Option("--debug", help="Log connections, requests and decisions to stderr; add tracebacks."),
    "until_stdin_ends": typer.Option(
        "--until-stdin-ends",
        hidden=True,
        help="End when stdin does, which whoever started it holds, also if it is killed.",
    ),
}


class UsageError(StrongholdError):
    """The command line is invalid."""


class Terminated(BaseException):
    """SIGTERM came before the command had done what it was run for."""


def terminate(*_: object) -> NoReturn:
    """Ends what runs under no event loop, in order, on SIGTERM."""
    raise Terminated


class PlainCommand(TyperCommand):
    """A command whose help names its arguments as manual pages do: ``ADDR [FILE]...``, without their types. The value of an
    option whose metavar is in brackets may be left out, and is empty then."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[GIVEN] = tuple(args)
        names = {
            name
            for parameter in self.get_params(ctx)
            if parameter.param_type_name == "option" and str(parameter.metavar).startswith("[")
            for name in parameter.opts
        }
        return super().parse_args(ctx, _with_values(args, names))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        arguments, options = [], []
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            if parameter.param_type_name == "argument":
                name, help_text = record
                arguments.append((name.partition(" ")[0], help_text.removesuffix("[required]").rstrip()))
            else:
                options.append(record)
        for title, records in (("Arguments", arguments), ("Options", options)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _with_values(args: list[str], names: set[str]) -> list[str]:
    """Puts an empty value after each of ``names`` that another option, an address or nothing follows."""
    end = args.index("--") if "--" in args else len(args)
    completed = []
    for at, word in enumerate(args[:end]):
        completed.append(word)
        if word in names and (at + 1 == end or args[at + 1].startswith(("-", "/"))):
            completed.append("")
    return completed + args[end:]


def group(name: str, help: str, *functions: Callable[..., Any]) -> typer.Typer:
    """A command with commands of its own, each with the name of its function."""
    made = typer.Typer(
        name=name,
        help=help,
        add_completion=False,
        rich_markup_mode=None,
        callback=lambda: None,  # else an only command would take the place of the group
    )
    for function in functions:
        add_command(made, function, function.__name__.rstrip("_"))
    return made


def add_command(
    group: typer.Typer,
    function: Callable[..., Any],
    name: str | None = None,
    *,
    is_service: Callable[[dict[str, Any]], bool] = lambda arguments: False,
) -> None:
    """Adds a command to ``group``, with the flags that all have. The coroutine that it returns runs on uvloop, if that is
    installed.

    What may block (stdin, a passphrase, a pipe in the place of a file) a command does before it returns that: a signal
    ends it there at once, while under a loop it would wait for the loop to run on.

    ``is_service``: whether the command, with these arguments, runs until it is stopped. SIGTERM is its proper end then.
    """
    group.command(name, cls=PlainCommand)(_runner(function, is_service))


def _runner(function: Callable[..., Any], is_service: Callable[[dict[str, Any]], bool]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(*, json: bool, debug: bool, until_stdin_ends: bool, **arguments: Any) -> None:
        try:
            work = function(**arguments)
        except Terminated:
            if not is_service(arguments):
                raise
            return
        if not inspect.iscoroutine(work):
            return
        from .loop import new_event_loop  # with uvloop, for what runs on a loop

        terminated = False

        async def run_until_stopped() -> None:
            # The runner's own handler of SIGINT cancels between any two instructions, also of a future that is being set.
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None

            def interrupt(*_: object) -> None:
                signal.signal(signal.SIGINT, signal.default_int_handler)  # the second Ctrl-C ends it at once
                loop.call_soon_threadsafe(task.cancel)

            def terminate() -> None:
                nonlocal terminated
                terminated = True
                task.cancel()

            def stdin_ended() -> None:
                loop.remove_reader(0)
                terminate()

            if before is not signal.SIG_IGN:  # as of a job in a script's background
                signal.signal(signal.SIGINT, interrupt)
            loop.add_signal_handler(signal.SIGTERM, terminate)
            if until_stdin_ends:
                loop.add_reader(0, stdin_ended)
            try:
                async with output.in_background():
                    await work
            finally:
                signal.signal(signal.SIGINT, before)

        before = signal.getsignal(signal.SIGINT)
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(run_until_stopped())
        except asyncio.CancelledError:
            if not terminated:
                raise KeyboardInterrupt from None
            if not is_service(arguments):
                raise Terminated from None
        finally:
            signal.signal(signal.SIGTERM, terminate)  # the loop has left nothing in its place

    signature = inspect.signature(function, eval_str=True)
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
        for name, option in FLAGS.items()
    ]
    parameters = [*signature.parameters.values(), *flags]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def load_key(path: Path | None, passphrase_file: Path | None = None) -> Keypair | None:
    """Read an identity, with a prompt for the passphrase if the file is encrypted and none was given.

    Raises:
        KeyFileError: the file cannot be read, or the passphrase is wrong.
        UsageError: the file is encrypted, and there is no terminal for a prompt; or a passphrase was given without a file.
    """
    if path is None:
        if passphrase_file is not None:
            raise UsageError("--passphrase-file needs a key file: add --key FILE")
        return None
    return Keypair.load(path, lambda: passphrase(f"Passphrase of {path}: ", file=passphrase_file))


def passphrase(*prompts: str, file: Path | None = None) -> str:
    """The passphrase from a file; without one from the environment; else from the terminal, where every prompt must be
    answered alike.

    Raises:
        UsageError: there is none, it is empty, or the answers differ.
    """
    answers = [os.environ.get(PASSPHRASE_VARIABLE) if file is None else _first_line(file)]
    if answers == [None]:
        if not sys.stderr.isatty():
            raise UsageError(
                f"a passphrase is needed: set {PASSPHRASE_VARIABLE}, give --passphrase-file, or run in a terminal"
            )
        try:
            answers = [getpass.getpass(escaped(prompt)) for prompt in prompts]
        except EOFError:
            raise UsageError("the passphrase was not entered") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"the passphrase is not valid in the terminal's encoding, {error.encoding}") from None
    first, *others = answers
    if not first:
        raise UsageError("the passphrase is empty")
    if any(other != first for other in others):
        raise UsageError("the passphrases differ")
    return first


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_PASSPHRASE + 1)
    except OSError as error:
        raise UsageError(f"passphrase file {path}: {error.strerror}") from error
    line = line.rstrip(b"\r\n")
    if len(line) > MAX_PASSPHRASE:
        raise UsageError(f"passphrase file {path}: its first line has over {MAX_PASSPHRASE:,} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"passphrase file {path}: its first line is not UTF-8 text") from error
