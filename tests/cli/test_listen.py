from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority

from stronghold_p2p import Path as ConnectionPath
from stronghold_p2p.cli import output
from stronghold_p2p.cli.listen import MAX_MESSAGE, tell
from stronghold_p2p.errors import DecodeError
from stronghold_p2p.events import (
    AddressesChanged,
    AddressOrigin,
    AddressReachability,
    ConnectionInfo,
    Direction,
    Dropped,
    Event,
    HolePunchFailed,
    LimitReached,
    PathUpgraded,
    PortMapped,
    PortMappingFailed,
    Reachability,
    ReachabilityChanged,
    RequestFailed,
)
from stronghold_p2p.identity import Keypair
from stronghold_p2p.multiaddr import Multiaddr

from .conftest import WAIT, Cli, process


def test_it_prints_who_it_is_and_where(tmp_path: Path) -> None:
    key = tmp_path / "bob.pem"
    Keypair.generate().save(key)
    addresses = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0")
    with process("listen", *addresses, "--allow-all", "--key", str(key)) as listener:
        assert listener.stdout is not None
        lines = [listener.stdout.readline().split() for _ in range(3)]
    peer_id = str(Keypair.load(key).peer_id)
    assert lines[0] == ["peer", "id", peer_id]
    assert all(line[-1].endswith(f"/p2p/{peer_id}") for line in lines[1:])
    assert lines[1] != lines[2]


@pytest.mark.parametrize(
    "command", [("listen", "--allow-all"), ("perf", "--run-server", "--server-address", "127.0.0.1:0")]
)
@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_ends_in_order_when_stopped(command: tuple[str, ...], stop: signal.Signals, status: int) -> None:
    with process(*command, "--json") as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        listener.send_signal(stop)
        out, err = listener.communicate(timeout=WAIT)
    assert (listener.returncode, out, err) == (status, "", "")


def test_a_certificate_for_the_addresses_that_have_tls(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    certificate, key = map(str, authority.issue("127.0.0.1"))
    addresses = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/tls/ws")
    options = ("--allow-all", "--json", "--certificate", certificate, "--certificate-key", key)
    with process("listen", *addresses, *options) as listener:
        assert listener.stdout is not None
        for form in "", "/tls/ws":
            target = json.loads(listener.stdout.readline())["address"]
            assert target.partition("/p2p/")[0].endswith(form)
            assert cli.json("request", target, '"hello"').line == "hello"


def test_a_trusted_proxy_for_the_addresses_that_have_http(cli: Cli) -> None:
    addresses = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
    with process("listen", *addresses, "--allow-all", "--json", "--trusted-proxy", "127.0.0.0/8") as listener:
        assert listener.stdout is not None
        plain, websocket = (json.loads(listener.stdout.readline())["address"] for _ in addresses)
        assert cli.json("request", plain, '"hello"').line == "hello"
        told = cli.json("request", websocket, '"hello"')  # as the proxy, and not for anybody
        assert (told.status, told.line["error"]) == (3, "DialError")
        assert "HTTP 400" in told.line["message"]


PORT_IN_USE = "a port in use"


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("--allow-all", "/ip4/localhost/tcp/0"), 2, "InvalidAddress"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0", "127.0.0.1:4001"), 2, "InvalidAddress"),
        (("--allow-all", "/ip4/127.0.0.1/udp/0"), 1, "ListenError"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0", PORT_IN_USE), 1, "ListenError"),
        (("--allow-all", "--announce", "/ip4/0.0.0.0/tcp/1"), 2, "InvalidAddress"),
        (("--allow-all", "--keep", "/ip4/127.0.0.1/tcp/1"), 2, "InvalidAddress"),
        (("--policy", "missing"), 1, "PolicyError"),
        (("--allow-all", "--key", "missing"), 1, "KeyFileError"),
        (("--allow-all", "--handler", "exec:missing"), 2, "UsageError"),
        (("--allow-all", "--audit", "missing/audit"), 1, "AuditFailed"),
        (("--allow-all", "--state", "missing/state"), 1, "StateError"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0/tls/ws"), 1, "ListenError"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0/tls/ws", "--certificate", "a.pem"), 2, "UsageError"),
        (("--allow-all", "--certificate", "a.pem", "--certificate-key", "b.pem"), 2, "UsageError"),
        (("--allow-all", "--trusted-proxy", "10.0.0.0/8"), 2, "UsageError"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0/ws", "--trusted-proxy", "proxy.example"), 1, "ListenError"),
        (
            ("--allow-all", "/ip4/127.0.0.1/tcp/0/wss", "--certificate", "a.pem", "--certificate-key", "b.pem"),
            1,
            "ListenError",
        ),
    ],
)
def test_a_failed_start_tells_why_and_leaves_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        start = ["listen", *(used if argument is PORT_IN_USE else argument for argument in arguments)]
        for option in ("--state", "--audit"):
            if option not in arguments:
                start += [option, option.removeprefix("--")]
        told = cli(*start)
        assert (told.status, told.out) == (status, "")
        assert told.err.startswith(f"{error}: ")
        told = cli.json(*start)
        assert (told.status, told.line["error"]) == (status, error)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_leaves_what_was_there(cli: Cli, tmp_path: Path) -> None:
    state, audit = tmp_path / "state", tmp_path / "audit"
    peer = str(Keypair.generate().peer_id)
    assert cli("firewall", "ban", peer, "--state", str(state)).status == 0
    audit.write_text("kept\n")
    files = ("--state", str(state), "--audit", str(audit))
    assert cli("listen", "--allow-all", "/ip4/127.0.0.1/udp/0", *files).status == 1
    assert cli.json("firewall", "list", "--state", str(state)).line["banned"] is True
    assert audit.read_text() == "kept\n"


def failure(listener: subprocess.Popen[str]) -> dict[str, Any]:
    assert listener.stdout is not None
    event: dict[str, Any] = json.loads(listener.stdout.readline())
    assert event.pop("event") == "request_failed"
    return event


def test_a_handler_that_takes_too_long_is_told_of(cli: Cli, tmp_path: Path) -> None:
    key = tmp_path / "alice.pem"
    peer_id = cli.json("key", "new", str(key)).line["peer_id"]
    options = ("--allow-all", "--handler", "exec:sleep 60", "--handler-timeout", "0.1", "--json")
    with process("listen", *options) as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        asked = cli.json("request", address, "{}", "--key", str(key))
        assert (asked.status, asked.line["error"]) == (1, "StreamReset")
        assert failure(listener) == {
            "peer": peer_id,
            "name": None,
            "error": "RequestTimeout",
            "message": "the handler did not end within 0.1 s",
        }


def test_a_handler_that_fails_is_told_of(cli: Cli) -> None:
    with process("listen", "--allow-all", "--handler", "exec:false", "--json") as listener:
        assert listener.stdout is not None
        cli("request", json.loads(listener.stdout.readline())["address"], "{}")
        told = failure(listener)
        assert (told["error"], told["message"]) == ("CommandFailed", "false ended with status 1")


async def test_a_request_that_cannot_be_decoded_is_told_of() -> None:
    """The message may quote what the remote sent: it is shown safely, and not without end."""
    printed: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    peer, error = Keypair.generate().peer_id, DecodeError("json", "\x1b[2J" + "x" * 10_000)

    async def events() -> AsyncIterator[Event]:
        yield RequestFailed(peer, error)
        yield LimitReached("max_connections", "192.0.2.1/32", 7)
        yield Dropped(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "is_json", lambda: True)
        patch.setattr(output, "result", printed.put_nowait)
        await tell(events())
    told = await printed.get()
    assert (told["event"], told["peer"], told["error"]) == ("request_failed", str(peer), "DecodeError")
    assert len(told["message"]) == MAX_MESSAGE
    assert told["message"].isprintable()
    assert await printed.get() == {
        "event": "limit",
        "limit": "max_connections",
        "network": "192.0.2.1/32",
        "count": 7,
    }
    assert await printed.get() == {"event": "dropped", "count": 3}


async def test_addresses_that_come_and_go_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    here, there = (Multiaddr.parse(f"/ip4/192.0.2.{number}/tcp/1") for number in (1, 2))

    async def events() -> AsyncIterator[Event]:
        yield AddressesChanged((here, there), (there,))
        yield AddressesChanged((here,), ())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "_json", False)  # another test may have left it so
        await tell(events())
        await output.shown()
        assert capsys.readouterr().out == f"listening on  {there}\n"
        patch.setattr(output, "_json", True)
        await tell(events())
        await output.shown()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "addresses", "addresses": [str(here), str(there)]},
        {"event": "addresses", "addresses": [str(here)]},
    ]


async def test_what_a_router_does_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    address = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")

    async def events() -> AsyncIterator[Event]:
        yield PortMapped(address, "PCP", 5.0)
        yield PortMappingFailed(address, "UPnP: no answer\x1b[2J")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "_json", False)  # another test may have left it so
        await tell(events())
        await output.shown()
        # What is mapped is told as an address.
        assert capsys.readouterr().out == "port mapping  UPnP: no answer\\x1b[2J\n"
        patch.setattr(output, "_json", True)
        await tell(events())
        await output.shown()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "port_mapped", "address": str(address), "protocol": "PCP", "expires": 5.0},
        {"event": "port_mapping_failed", "address": str(address), "reason": "UPnP: no answer\x1b[2J"},
    ]


async def test_paths_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    address = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
    peer, relay = Keypair.generate().peer_id, Keypair.generate().peer_id
    direct = ConnectionInfo(peer, address, Direction.OUTBOUND, 0.0, 0, ConnectionPath("tcp", address))

    async def events() -> AsyncIterator[Event]:
        yield HolePunchFailed(peer, ValueError("no answer\x1b[2J"), attempt=1, last=False)
        yield PathUpgraded(direct, ConnectionPath("tcp", relay=relay))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "_json", False)
        await tell(events())
        await output.shown()
        assert capsys.readouterr().out == f"direct now    {peer}, at {address}; before through {relay}\n"
        patch.setattr(output, "_json", True)
        await tell(events())
        await output.shown()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {
            "event": "hole_punch_failed",
            "peer": str(peer),
            "name": None,
            "error": "ValueError",
            "message": "no answer\\x1b[2J",
            "attempt": 1,
            "last": False,
        },
        {"event": "path_upgraded", "peer": str(peer), "name": None, "address": str(address), "relay": str(relay)},
    ]


async def test_which_addresses_can_be_dialed_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    address = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
    known = AddressReachability(Reachability.UNREACHABLE, AddressOrigin.ANNOUNCED)

    async def events() -> AsyncIterator[Event]:
        yield ReachabilityChanged(address, known, Reachability.UNKNOWN)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "_json", False)  # another test may have left it so
        await tell(events())
        await output.shown()
        assert capsys.readouterr().out == f"unreachable   {address} ({known.how})\n"
        patch.setattr(output, "_json", True)
        await tell(events())
        await output.shown()
    assert json.loads(capsys.readouterr().out) == {
        "event": "reachability",
        "address": str(address),
        "state": "unreachable",
        "how": known.how,
    }


def test_what_is_announced_is_printed_with_the_rest() -> None:
    announced = "/ip4/1.2.3.4/tcp/80", "/dns4/example.com/tcp/443/wss"
    options = [part for address in announced for part in ("--announce", address)]
    with process("listen", *["/ip4/127.0.0.1/tcp/0"] * 2, "--allow-all", "--json", *options) as listener:
        assert listener.stdout is not None
        printed = [json.loads(listener.stdout.readline())["address"].partition("/p2p/")[0] for _ in range(4)]
    assert tuple(printed[1:3]) == announced
    assert printed[0].startswith("/ip4/127.0.0.1/tcp/")
    assert printed[3].startswith("/ip4/127.0.0.1/tcp/")


def test_why_a_peer_is_not_kept_is_printed() -> None:
    peer = Keypair.generate().peer_id
    with process("listen", "--allow-all", "--json", "--keep", f"/ip4/127.0.0.1/tcp/1/p2p/{peer}") as listener:
        assert listener.stdout is not None
        printed = [json.loads(listener.stdout.readline()) for _ in range(2)]
    (failed,) = (line for line in printed if line["event"] == "keep_failed")
    assert (failed["peer"], failed["error"]) == (str(peer), "DialError")


def test_a_question_that_nobody_answers_ends_after_its_time(cli: Cli) -> None:
    with process("listen", "--ask", "--ask-timeout", "0.1", "--json", stdin=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        asked = cli.json("request", json.loads(listener.stdout.readline())["address"], "{}")
        assert (asked.status, asked.line["error"]) == (5, "NoResponse")
        assert json.loads(listener.stdout.readline())["event"] == "firewall"
        ended = {"event": "ended", "id": 1, "reason": "timed out", "by": "firewall", "why": None}
        assert json.loads(listener.stdout.readline()) == ended


@pytest.mark.parametrize(("quiet", "questions"), [("60", 1), ("0", 2)])
def test_a_peer_that_was_not_answered_causes_no_question_for_a_while(
    cli: Cli, tmp_path: Path, quiet: str, questions: int
) -> None:
    key = str(tmp_path / "alice.pem")
    cli("key", "new", key)
    options = ("--ask", "--ask-timeout", "0.1", "--ask-quiet", quiet, "--json")
    with process("listen", *options, stdin=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        for _ in range(2):
            assert cli.json("request", address, "{}", "--key", key).line["error"] == "NoResponse"
        listener.send_signal(signal.SIGINT)
        told = [json.loads(line) for line in listener.stdout]
    assert len([line for line in told if line["event"] == "firewall"]) == questions


def test_who_is_kept_may_be_given_by_name(cli: Cli, tmp_path: Path) -> None:
    """And its name is told of."""
    state, missing = str(tmp_path / "state.db"), str(tmp_path / "missing.db")
    cli("firewall", "name", str(Keypair.generate().peer_id), "alice", "--state", state)
    with process("listen", "--allow-all", "--json", "--state", state, "--keep", "alice") as listener:
        assert listener.stdout is not None
        printed = [json.loads(listener.stdout.readline()) for _ in range(2)]
    (failed,) = (line for line in printed if line["event"] == "keep_failed")
    assert failed["name"] == "alice"
    told = cli.json("listen", "--allow-all", "--state", missing, "--keep", "alice")
    assert (told.status, told.line["error"]) == (2, "InvalidAddress")
    assert not Path(missing).exists()


def test_what_a_policy_leaves_open_is_asked(cli: Cli, tmp_path: Path) -> None:
    """``--policy`` and ``--ask`` together: the file's rules, and a question for each request that none decides."""
    key, policy = tmp_path / "alice.pem", tmp_path / "policy.toml"
    alice = cli.json("key", "new", str(key)).line["peer_id"]
    policy.write_text(f'[peers.alice]\nid = "{alice}"\ninbound = "allow"\n')
    with process("listen", "--ask", "--policy", str(policy), "--json", stdin=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        assert listener.stdin is not None
        address = json.loads(listener.stdout.readline())["address"]
        assert cli("request", address, "1", "--key", str(key)).line == 1
        for answer, status in (("allow", 0), ("reject", 5)):
            with process("request", address, "2") as request:
                question = json.loads(listener.stdout.readline())
                assert (question["event"], question["kind"]) == ("firewall", "request")
                listener.stdin.write(json.dumps({"id": question["id"], "answer": answer}) + "\n")
                listener.stdin.flush()
                assert request.wait(WAIT) == status
            assert json.loads(listener.stdout.readline())["event"] == "ended"


def test_whoever_wanted_the_address_alone_may_leave(cli: Cli, tmp_path: Path) -> None:
    """No remote ends the peer then by what is printed of its requests."""
    command = tmp_path / "command"
    command.write_text("#!/bin/sh\nexit 1\n")
    command.chmod(0o700)
    with process("listen", "--allow-all", "--handler", f"exec:{command}", "--json") as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        listener.stdout.close()
        for _ in range(2):
            assert cli("request", address, "1").status == 1
        command.write_text("#!/bin/sh\necho 2\n")
        assert cli("request", address, "1").line == 2
        listener.send_signal(signal.SIGTERM)
        assert listener.wait(WAIT) == 0
        assert listener.stderr is not None
        assert listener.stderr.read().count("cannot write to stdout any more: Broken pipe\n") == 1
