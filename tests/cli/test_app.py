"""What holds for every command: arguments, the form of errors, exit statuses."""

from __future__ import annotations

import logging
import platform
import re
import signal
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from support.compiled import COMPILED

from stronghold_p2p.cli import key
from stronghold_p2p.cli.commands import COMMANDS
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

from .conftest import WAIT, Cli, process

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

    monkeypatch.setattr(key, "load_key", fail)
    ran = cli.json("key", "show", "file")
    assert ran.status == status
    assert ran.line == {"error": type(error).__name__, "message": str(error)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("request",),
        ("request", "--no-such-option"),
        (),
        ("no-such-command",),
        ("firewall",),
        ("firewall", "no-such-command"),
        ("--no-such-option", "listen"),
        ("key", "new", "file", "--format", "der"),
        ("ping", "address", "--count", "0"),
        ("request", "address", "{}", "--codec", "xml"),
        ("request", "address", "{}", "--timeout", "-1"),
        ("request", "address", "{}", "--timeout", "inf"),
        ("request", "address", "{}", "--timeout", "nan"),
        ("ping", "address", "--timeout", "0"),
        ("bench", "--seconds", "inf"),
        ("bench", "--size", "many"),
        ("listen",),
        ("listen", "--allow-all", "--reject-all"),
        ("listen", "--allow-all", "--ask"),
        ("listen", "--allow-all", "--policy", "file"),
        ("listen", "--allow-all", "--handler-timeout", "0"),
        ("listen", "--ask", "--ask-timeout", "1e300"),
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
    for command in ("demo", "key", "listen", "relay", "request", "ping", "perf", "bench"):
        assert f"\n  {command} " in told.out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_told_as_it_tells_itself(cli: Cli, command: str) -> None:
    _, first, *_ = cli(command, "--help").out.split("\n\n")
    assert " ".join(first.split()).startswith(COMMANDS[command].summary.removesuffix("."))


def test_version(cli: Cli) -> None:
    told = cli("--version")
    build = "compiled" if COMPILED else "pure Python"
    python = f"CPython {platform.python_version()}"
    start = f"stronghold-p2p {metadata.version('stronghold-p2p')} ({build}, {python}, {platform.system()} "
    assert (told.status, told.out.startswith(start)) == (0, True), told.out


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("listen", "[OPTIONS] [ADDR]..."),
        ("relay", "[OPTIONS] [ADDR]..."),
        ("request", "[OPTIONS] ADDR JSON"),
        ("ping", "[OPTIONS] ADDR"),
        ("key new", "[OPTIONS] FILE"),
        ("key show", "[OPTIONS] FILE"),
        ("firewall list", "[OPTIONS]"),
        ("firewall allow", "[OPTIONS] PEER"),
        ("perf", "[OPTIONS]"),
        ("bench", "[OPTIONS]"),
        ("demo", "[OPTIONS]"),
        ("key", "[OPTIONS] COMMAND [ARGS]..."),
    ],
)
def test_usage_lines_are_those_of_manual_pages(cli: Cli, command: str, usage: str) -> None:
    told = cli(*command.split(), "--help")
    assert told.out.splitlines()[0] == f"Usage: stronghold-p2p {command} {usage}"
    assert not re.search(r"[{<](str|path|list)\b|\[\[|<=x", told.out)


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_before_its_result(stop: signal.Signals, status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}/p2p/{PEER}"
        with process("request", address, "{}", "--json") as request:
            server.settimeout(WAIT)
            with server.accept()[0]:  # which says nothing
                request.send_signal(stop)
                assert request.communicate(timeout=WAIT) == ("", "")
    assert request.returncode == status


def test_the_times_of_both_sides_agree(cli: Cli) -> None:
    """A requester waits for as long as a person has to answer, and a handler; the documents say so, too."""
    defaults = {}
    for command, option in (("request", "--timeout"), ("listen", "--ask-timeout"), ("listen", "--handler-timeout")):
        text = " ".join(cli(command, "--help").out.split())
        found = re.search(rf"{option} S .*?\[default: ([0-9.]+)\]", text)
        assert found is not None
        defaults[option] = float(found[1])
    assert set(defaults.values()) == {60.0}
    root = Path(__file__).parents[2]
    assert "You have 60 s to answer (`--ask-timeout`), and `request` waits 60 s" in (root / "README.md").read_text()
    assert "You have 60 s to answer (`--ask-timeout`)" in (root / "docs" / "FIREWALL.md").read_text()


@pytest.mark.parametrize(
    "command", ["demo", "key new", "key show", "listen", "relay", "request", "ping", "perf", "bench"]
)
def test_every_command_can_be_told_to_print_json(cli: Cli, command: str) -> None:
    told = cli(*command.split(), "--help")
    assert told.status == 0
    assert "--json" in told.out
    assert "--debug" in told.out


def test_a_missing_extra_is_named() -> None:
    hide = "import sys; sys.modules['typer'] = None; from stronghold_p2p.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", hide, "demo"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install '.[cli]'" in ran.stderr
    assert "Traceback" not in ran.stderr
