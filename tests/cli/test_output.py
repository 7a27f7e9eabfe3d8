"""What is printed, on whatever it is printed."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stronghold_p2p import StrongholdP2p
from stronghold_p2p.cli import key, output
from stronghold_p2p.errors import DialError, NoResponse, PeerIdMismatch
from stronghold_p2p.identity import Keypair, PeerId

from .conftest import WAIT, Cli, listening, terminal

HIDDEN = "\u009b2J\u202e\u007f\u034f\u115f\u2800\u3164\U000e0100"
ESCAPED = '"\\u009b2J\\u202e\\u007f\\u034f\\u115f\\u2800\\u3164\\udb40\\udd00"'


@pytest.fixture(scope="module")
def raw() -> Iterator[str]:
    with listening("--allow-all", "--codec", "raw") as address:
        yield address


# -- a terminal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_response_is_shown_with_escapes_that_are_json(echo: str, flags: tuple[str, ...]) -> None:
    with terminal("request", echo, json.dumps(HIDDEN), *flags) as asked:
        assert asked.wait() == 0
    assert asked.shown == ESCAPED + "\r\n"
    assert json.loads(asked.shown) == HIDDEN


def test_a_response_is_piped_as_it_is(cli: Cli, echo: str) -> None:
    assert cli("request", echo, json.dumps(HIDDEN)).out == f'"{HIDDEN}"\n'


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("naïve\n\x1b[2J\u3164".encode(), "naïve\r\n\\x1b[2J\\u3164\r\n"),
        (b"\xff\x9b", "\\xff\\x9b\r\n"),
    ],
)
def test_raw_bytes_are_shown_as_text(cli: Cli, raw: str, body: bytes, shown: str) -> None:
    with terminal("request", raw, os.fsdecode(body), "--codec", "raw") as asked:
        assert asked.wait() == 0
    assert asked.shown == shown


def test_an_error_is_one_safe_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError(f"a\nb\r{HIDDEN}")

    monkeypatch.setattr(key, "load_key", fail)
    told = cli("key", "show", "x")
    assert told.err == "ZeroDivisionError: a\\nb\\r\\x9b2J\\u202e\\x7f\\u034f\\u115f\\u2800\\u3164\\U000e0100\n"
    told = cli("key", "show", "x", "--debug")
    assert "Traceback" in told.err
    assert all(line.isprintable() for line in told.err.splitlines())


@pytest.mark.parametrize("flags", [(), ("--debug",)])
def test_the_log_is_safe(cli: Cli, flags: tuple[str, ...]) -> None:
    cli("key", "show", "no such file", *flags)
    for name in ("stronghold_p2p", "asyncio"):
        try:
            raise ZeroDivisionError(HIDDEN)
        except ZeroDivisionError:
            logging.getLogger(name).exception("a remote said %s", f"x\nWARNING {HIDDEN}")
    told = cli("key", "show", "no such file")
    assert "a remote said x\\nWARNING \\x9b2J" in told.err
    assert all(line.isprintable() and "\u3164" not in line for line in told.err.split("\n"))


# -- text of the system --------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> str:
    """A name of a file that is no UTF-8."""
    return os.fsdecode(bytes(tmp_path) + b"/\xe9.pem")


def test_a_file_with_a_name_that_is_no_text(cli: Cli, odd: str, tmp_path: Path) -> None:
    missing = cli.json("key", "show", odd)
    assert (missing.status, missing.line["error"]) == (1, "KeyFileError")
    assert missing.line["message"].startswith(f"key file {tmp_path}/\\xe9.pem: there is no such file")
    made = cli.json("key", "new", odd)
    assert (made.status, made.line["file"]) == (0, f"{tmp_path}/\\xe9.pem")
    assert cli.json("key", "show", odd).line["peer_id"] == made.line["peer_id"]
    again = cli("key", "new", odd, "--force")
    assert (again.status, again.out.splitlines()[0].split()[-1]) == (0, f"{tmp_path}/\\xe9.pem")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("request", "\udcff", "1"), 2),
        (("request", "/dns4/\udcff/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", "1"), 2),
        (("request", "x", "1", "--codec", "\udcff"), 2),
        (("request", "x", '"\udcff"'), 2),
        (("\udcff",), 2),
        (("listen", "--allow-all", "--handler", "\udcff"), 2),
        (("listen", "--allow-all", "--handler", "exec:\udcff"), 2),
        (("listen", "--allow-all", "/ip4/\udcff/tcp/0"), 2),
        (("listen", "--policy", "\udcff"), 1),
        (("listen", "--allow-all", "--audit", "\udcff/x"), 1),
        (("listen", "--allow-all", "--state", "\udcff/x"), 1),
        (("firewall", "list", "--state", "\udcff"), 1),
        (("firewall", "allow", "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", "--state", "\udcff/x"), 1),
        (("firewall", "allow", "\udcff", "--state", "\udcff/x"), 2),
        (("perf", "--server-address", "\udcff:1"), 2),
        (("bench", "--target", "\udcff"), 2),
    ],
)
def test_arguments_that_are_no_text(cli: Cli, arguments: tuple[str, ...], status: int) -> None:
    for flags in ((), ("--json",)):
        told = cli(*arguments, *flags)
        assert (told.status, "Traceback" in told.err) == (status, False)
        if flags:
            assert told.line["message"].isprintable()
        else:
            assert told.err.isascii()


def test_a_state_with_an_odd_name_and_types_that_no_request_has(cli: Cli, odd: str) -> None:
    peer = str(Keypair.generate().peer_id)
    told = cli.json("firewall", "allow", peer, "--types", "Read,\udcff", "--state", odd)
    assert (told.status, told.line["error"]) == (2, "UsageError")
    assert cli.json("firewall", "allow", peer, "--types", "Read", "--state", odd).line["inbound"] == ["Read"]
    assert cli.json("firewall", "list", "--state", odd).line["inbound"] == ["Read"]


def test_a_passphrase_that_is_no_text(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key.pem"
    monkeypatch.setenv("STRONGHOLD_P2P_PASSPHRASE", os.fsdecode(b"\xff"))
    made = cli.json("key", "new", str(file), "--passphrase")
    assert cli.json("key", "show", str(file)).line["peer_id"] == made.line["peer_id"]
    assert Keypair.load(file, b"\xff")


def test_any_bytes_are_sent_raw(cli: Cli, raw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = bytes(range(1, 256))
    stdout = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(stdout))
    assert cli("request", raw, os.fsdecode(everything), "--codec", "raw").status == 0
    assert stdout.getvalue() == everything


# -- other encodings than UTF-8 ------------------------------------------------------------------------


def run(*arguments: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "stronghold_p2p", *arguments],
        capture_output=True,
        timeout=WAIT,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1251", "utf-8", "utf-8:surrogateescape"])
def test_json_is_utf_8_whatever_the_terminal_has(echo: str, encoding: str) -> None:
    text = "é€😀\u202e"
    asked = run("request", echo, json.dumps(text), encoding=encoding)
    assert (asked.returncode, json.loads(asked.stdout.decode())) == (0, text)


@pytest.mark.slow
def test_text_has_escapes_for_what_the_terminal_lacks(tmp_path: Path) -> None:
    made = run("key", "new", str(tmp_path / "é€"), encoding="latin-1")
    assert made.stdout.splitlines()[0].endswith(b"/\xe9\\u20ac")


@pytest.mark.slow
def test_the_demo_runs_on_any_terminal() -> None:
    shown = run("demo", encoding="latin-1")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert "\\u2713 Four peers" in shown.stdout.decode("latin-1")
    # Without namespaces, two steps are left out.
    assert len([line for line in shown.stdout.splitlines() if line.startswith((b"\\u2713", b"- "))]) == 8


def test_names_that_are_printed_in_the_background(capsys: pytest.CaptureFixture[str]) -> None:
    async def tell() -> None:
        async with output.in_background():
            output.note("\udce9")
            output.result({"file": "\udce9"})

    output.configure(json=False, debug=False)
    asyncio.run(tell())
    assert capsys.readouterr().out == '\\xe9\n{"file":"\\\\xe9"}\n'


# -- names of peers ------------------------------------------------------------------------------------


PEER = PeerId.parse("12D3KooWRRyooRcDcrSCjR5cGBYRzUBbENWbvp2JY2atYtq45dhM")
OTHER = PeerId.parse("12D3KooWPd9mp9pp9m35GFMbEAJ4m7RmwduMqPWE6V71mySEHR2E")
SHOWN = "alice (12D3Koo…q45dhM)"


@pytest.fixture
def named() -> Iterator[None]:
    """People are shown a name for one peer."""
    output.configure(json=False, debug=False)
    output.name_peers({PEER: "alice"}.get)
    yield
    output.configure(json=False, debug=False)


@pytest.mark.usefixtures("named")
def test_a_peer_is_shown_by_its_name() -> None:
    assert (output.who(PEER), output.who(OTHER)) == (SHOWN, str(OTHER))
    assert output.peer_record(PEER) == {"peer": str(PEER), "name": "alice"}
    assert output.peer_record(OTHER) == {"peer": str(OTHER), "name": None}
    output.configure(json=False, debug=False)
    assert output.who(PEER) == str(PEER)


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (NoResponse(PEER), f"NoResponse: {SHOWN} closed the request without a response: rejected or declined"),
        (NoResponse(OTHER), f"NoResponse: {OTHER} closed the request without a response: rejected or declined"),
        (ValueError("x" * 52, "Qm" + "z" * 44), f"ValueError: ('{'x' * 52}', 'Qm{'z' * 44}')"),
        (
            DialError(PEER, reason=f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}: refused"),
            f"DialError: cannot dial {SHOWN}: /ip4/192.0.2.1/tcp/1/p2p/{PEER}: refused",
        ),
        (
            PeerIdMismatch(PEER, OTHER),
            f"PeerIdMismatch: noise: dialed {SHOWN}, but the remote is {OTHER}",
        ),
    ],
    ids=["its peer", "another", "no peer", "in an address", "of two"],
)
def test_an_error_names_the_peers_that_it_is_about(
    capsys: pytest.CaptureFixture[str], error: Exception, shown: str
) -> None:
    output.error(error)
    assert capsys.readouterr().err == shown + "\n"


@pytest.mark.usefixtures("named")
def test_the_log_names_peers(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("stronghold_p2p").warning(
        "%s is not kept: %s, %r", PEER, DialError(PEER, reason="why"), KeyError(1)
    )
    assert capsys.readouterr().err == f"{SHOWN} is not kept: cannot dial {SHOWN}: why, KeyError(1)\n"


def test_a_thread_may_log_while_a_peer_has_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    async def log() -> None:
        async with StrongholdP2p[Any, Any]() as peer:
            peer.set_name(PEER, "alice")
            output.name_peers(peer.name_of)
            logging.getLogger("stronghold_p2p").warning("%s", PEER)
            await asyncio.to_thread(logging.getLogger("stronghold_p2p").warning, "%s", PEER)

    output.configure(json=False, debug=False)
    asyncio.run(log())
    assert capsys.readouterr().err == f"{SHOWN}\n{PEER}\n"
    output.configure(json=False, debug=False)


def test_a_name_is_shown_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    """A file may have been edited."""
    output.configure(json=False, debug=False)
    output.name_peers({PEER: "a\u202el\x1b[2J\n"}.get)
    output.error(NoResponse(PEER))
    output.note(output.who(PEER))
    printed = capsys.readouterr()
    assert printed.out == "a\\u202el\\x1b[2J\\n (12D3Koo…q45dhM)\n"
    assert printed.err.startswith(f"NoResponse: {printed.out.strip()} closed")
    output.configure(json=False, debug=False)
