from __future__ import annotations

import asyncio
import json
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from support.certificates import Authority

from stronghold_p2p.cli import output
from stronghold_p2p.cli.listen import MAX_MESSAGE, Exec, _tell
from stronghold_p2p.errors import DecodeError
from stronghold_p2p.events import Dropped, Event, RequestFailed
from stronghold_p2p.identity import Keypair
from stronghold_p2p.requests import Request

from .conftest import WAIT, Cli, listening, process


def python(code: str) -> str:
    """An ``exec`` handler that runs ``code``."""
    return "exec:" + shlex.join([sys.executable, "-c", code])


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


PORT_IN_USE = "a port in use"


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("--allow-all", "/ip4/localhost/tcp/0"), 2, "InvalidAddress"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0", "127.0.0.1:4001"), 2, "InvalidAddress"),
        (("--allow-all", "/ip4/127.0.0.1/udp/0"), 1, "ListenError"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0", PORT_IN_USE), 1, "ListenError"),
        (("--policy", "missing"), 1, "PolicyError"),
        (("--allow-all", "--key", "missing"), 1, "KeyFileError"),
        (("--allow-all", "--handler", "exec:missing"), 2, "UsageError"),
        (("--allow-all", "--audit", "missing/audit"), 1, "AuditFailed"),
        (("--allow-all", "--state", "missing/state"), 1, "StateError"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0/tls/ws"), 1, "ListenError"),
        (("--allow-all", "/ip4/127.0.0.1/tcp/0/tls/ws", "--certificate", "a.pem"), 2, "UsageError"),
        (("--allow-all", "--certificate", "a.pem", "--certificate-key", "b.pem"), 2, "UsageError"),
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
        yield Dropped(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "is_json", lambda: True)
        patch.setattr(output, "result", printed.put_nowait)
        await _tell(events())
    told = await printed.get()
    assert (told["event"], told["peer"], told["error"]) == ("request_failed", str(peer), "DecodeError")
    assert len(told["message"]) == MAX_MESSAGE
    assert told["message"].isprintable()
    assert await printed.get() == {"event": "dropped", "count": 3}


def test_a_question_that_nobody_answers_ends_after_its_time(cli: Cli) -> None:
    with process("listen", "--ask", "--ask-timeout", "0.1", "--json", stdin=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        asked = cli.json("request", json.loads(listener.stdout.readline())["address"], "{}")
        assert (asked.status, asked.line["error"]) == (5, "NoResponse")
        assert json.loads(listener.stdout.readline())["event"] == "firewall"
        assert json.loads(listener.stdout.readline()) == {"event": "ended", "id": 1, "reason": "timed out"}


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


def test_a_command_answers(cli: Cli) -> None:
    code = "import json, sys; json.dump({'sum': sum(json.load(sys.stdin))}, sys.stdout)"
    with listening("--allow-all", "--handler", python(code)) as address:
        assert cli("request", address, "[1, 2, 39]").line == {"sum": 42}


def test_a_command_answers_raw_bytes(cli: Cli) -> None:
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    with listening("--allow-all", "--codec", "raw", "--handler", python(code)) as address:
        assert cli("request", address, "abc", "--codec", "raw").out == "cba"


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('no JSON')"])
def test_a_command_that_fails_is_a_failed_handler(cli: Cli, code: str) -> None:
    with listening("--allow-all", "--handler", python(code)) as address:
        asked = cli.json("request", address, "{}")
    assert (asked.status, asked.line["error"]) == (1, "StreamReset")


def test_a_command_that_is_gone_is_a_failed_handler(cli: Cli, tmp_path: Path) -> None:
    command = tmp_path / "command"
    command.touch(0o700)
    with listening("--allow-all", "--handler", f"exec:{command}") as address:
        command.unlink()
        asked = cli.json("request", address, "{}")
    assert (asked.status, asked.line["error"]) == (1, "StreamReset")


def test_a_command_that_is_slower_than_the_requester_waits(cli: Cli) -> None:
    with listening("--allow-all", "--handler", "exec:sleep 60") as address:
        asked = cli.json("request", address, "{}", "--timeout", "0.2")
    assert (asked.status, asked.line["error"]) == (4, "RequestTimeout")


def test_a_command_ends_with_its_request() -> None:
    """The handler's command blocks on a socket of ours, which closes when the command is killed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT)
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1)"
        with (
            listening("--allow-all", "--handler", python(code)) as address,
            process("request", address, "{}", "--json") as request,
        ):
            command, _ = server.accept()
            request.send_signal(signal.SIGINT)
            assert request.wait(WAIT) == 130
            with command:
                command.settimeout(WAIT)
                assert command.recv(1) == b""


def test_a_command_that_does_not_read_its_stdin(cli: Cli) -> None:
    with listening("--allow-all", "--handler", "exec:echo 1") as address:
        assert [cli("request", address, f'"{"x" * 100_000}"').line for _ in range(5)] == [1] * 5


class HeldProcess:
    """Stands for a command's process that answers when it is let go; it is its own stdin and stdout."""

    started: ClassVar[list[HeldProcess]] = []
    returncode = 0

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.stdin = self.stdout = self
        self.body = b""
        self.started.append(self)

    @classmethod
    async def create(cls, *_: str, **__: object) -> HeldProcess:
        return cls()

    def write(self, body: bytes) -> None:
        self.body = body

    async def drain(self) -> None: ...

    def close(self) -> None: ...

    async def read(self) -> bytes:
        await self.go.wait()
        return self.body

    async def wait(self) -> int:
        return self.returncode


async def test_a_limit_on_the_commands_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldProcess, "started", [])
    monkeypatch.setattr("asyncio.create_subprocess_exec", HeldProcess.create)
    handler = Exec(["command"], raw=False, processes=2)
    request = SimpleNamespace(body="hello")
    calls = [asyncio.ensure_future(handler(cast("Request[Any]", request))) for _ in range(3)]
    await until_idle()
    first, second = HeldProcess.started
    first.go.set()
    await until_idle()
    _, _, third = HeldProcess.started
    second.go.set()
    third.go.set()
    assert await asyncio.gather(*calls) == ["hello"] * 3


async def until_idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
