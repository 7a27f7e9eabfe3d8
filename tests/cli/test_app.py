"""What holds for every command: arguments, the form of errors, exit statuses."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from stronghold_p2p.cli import app
from stronghold_p2p.errors import (
    ClosedError,
    ConnectionLost,
    DialError,
    EncodeError,
    InvalidAddress,
    KeyFileError,
    ListenError,
    NoResponse,
    NotPermitted,
    ProtocolNotSupported,
    RemoteProtocolError,
    RequestTimeout,
    StreamReset,
)
from stronghold_p2p.identity import Keypair

from .conftest import Cli

PEER = Keypair.generate().peer_id


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidAddress("/ip4", "cut off"), 2),
        (DialError(PEER), 3),
        (RequestTimeout(1), 4),
        (NotPermitted(PEER, "rejected"), 5),
        (ProtocolNotSupported("/x"), 5),
        (NoResponse(PEER), 5),
        (StreamReset(), 1),
        (ConnectionLost(), 1),
        (RemoteProtocolError("yamux", "bad"), 1),
        (ClosedError(), 1),
        (EncodeError("too large"), 1),
        (KeyFileError("file", "missing"), 1),
        (ListenError("/ip4/127.0.0.1/tcp/1", "in use"), 1),
        (ZeroDivisionError("a bug"), 1),
    ],
)
def test_exit_status(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    ran = cli.json("key", "show", "file")
    assert ran.status == status
    assert ran.line == {"error": type(error).__name__, "message": str(error)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("request",),
        ("request", "--no-such-option"),
        ("no-such-command",),
        ("key", "new", "file", "--format", "der"),
        ("ping", "address", "--count", "0"),
        ("request", "address", "{}", "--codec", "xml"),
        ("request", "address", "{}", "--timeout", "-1"),
        ("bench", "--size", "many"),
        ("listen",),
        ("listen", "--allow-all", "--reject-all"),
        ("listen", "--allow-all", "--handler", "ruby"),
        ("listen", "--allow-all", "--handler", "exec:"),
        ("listen", "--allow-all", "--handler", "exec:echo 'cut off"),
        ("listen", "--allow-all", "--handler", "exec:no-such-command-anywhere"),
        ("listen", "--allow-all", "--processes", "0"),
    ],
)
def test_usage(cli: Cli, arguments: tuple[str, ...]) -> None:
    told = cli(*arguments)
    assert (told.status, told.out) == (2, "")
    assert told.err.startswith("UsageError: ")
    assert "Traceback" not in told.err
    told = cli.json(*arguments)
    assert (told.status, told.line["error"]) == (2, "UsageError")


def test_the_traceback_is_shown_for_debugging(cli: Cli) -> None:
    told = cli("listen", "--debug")
    assert told.status == 2
    assert "Traceback" in told.err


def test_the_log_shows_warnings_and_names_exceptions_without_their_traceback(cli: Cli) -> None:
    cli("key", "show", "no such file")
    logger = logging.getLogger("stronghold_p2p")
    try:
        raise ZeroDivisionError("in a handler")
    except ZeroDivisionError:
        logger.exception("a handler failed")
    logger.info("not of interest")
    told = cli("key", "show", "no such file")
    assert told.err.startswith("a handler failed\n  ZeroDivisionError: in a handler\nKeyFileError: ")


def test_help_names_every_command(cli: Cli) -> None:
    told = cli("--help")
    assert told.status == 0
    for command in ("demo", "key", "listen", "request", "ping", "perf", "bench"):
        assert f"\n  {command} " in told.out


@pytest.mark.parametrize("command", ["demo", "key new", "key show", "listen", "request", "ping", "perf", "bench"])
def test_every_command_can_be_told_to_print_json(cli: Cli, command: str) -> None:
    told = cli(*command.split(), "--help")
    assert told.status == 0
    assert "--json" in told.out
    assert "--debug" in told.out


def test_help_does_not_wait_for_rich() -> None:
    watch = "import sys; from stronghold_p2p.cli.app import run; run(['--help']); print('rich' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


def test_a_missing_extra_is_named() -> None:
    hide = "import sys; sys.modules['typer'] = None; from stronghold_p2p.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", hide, "demo"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install 'stronghold-p2p[cli]'" in ran.stderr
    assert "Traceback" not in ran.stderr
