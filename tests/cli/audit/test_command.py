"""``--audit`` and ``audit verify``, as they are run."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from stronghold_p2p.cli.audit.command import MAX_TOLD
from stronghold_p2p.identity import Keypair

from ..conftest import WAIT, Cli, process

WITHOUT_A_KEY = [
    "that the last line here is the last one: what was cut off at a signed head is not missed",
    "anything against whoever holds the key: they can write all of it anew",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    key = tmp_path / "key.pem"
    Keypair.generate().save(key)
    return key


def records(path: Path, event: str = "decision") -> list[Any]:
    return [record for line in path.read_text().splitlines() if (record := json.loads(line))["event"] == event]


def run(cli: Cli, path: Path, key: Path, *bodies: str) -> None:
    """A peer that gets these requests, until Ctrl-C."""
    with process("listen", "--allow-all", "--audit", str(path), "--key", str(key), "--json") as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        for body in bodies:
            assert cli("request", address, body).status == 0
        listener.send_signal(signal.SIGINT)
        assert listener.wait(WAIT) == 130


def test_what_a_peer_writes_verifies(cli: Cli, path: Path, key: Path) -> None:
    for body in ('{"type":"Ping","secret":"treasure"}', "1"):
        run(cli, path, key, body)
    assert [record["type"] for record in records(path)] == ["Ping", None]
    assert "treasure" not in path.read_text()
    assert len(records(path, "start")) == len(records(path, "stop")) == 2
    peer = str(Keypair.load(key).peer_id)
    told = cli.json("audit", "verify", str(path), "--peer", peer)
    count = len(path.read_text().splitlines())
    last_head = records(path, "head")[-1]["time"]
    assert (told.status, told.line) == (
        0,
        {
            "event": "summary",
            "verified": True,
            "problems": 0,
            "left_out": 0,
            "files": 1,
            "lines": count,
            "proven": count,
            "signers": {peer: len(records(path, "head"))},
            "last_head": last_head,
            "not_proven": WITHOUT_A_KEY,
        },
    )
    told = cli("audit", "verify", str(path))
    assert told.status == 0
    assert told.out.startswith(f"verified    {count} of {count} lines\nsigned by   {peer}, ")
    assert f"not proven  that {peer} is the peer that you expect" in told.out
    stranger = str(Keypair.generate().peer_id)
    told = cli.json("audit", "verify", str(path), "--peer", stranger)
    assert (told.status, told.lines[-1]["verified"], told.lines[-1]["proven"]) == (1, False, 0)


def test_a_change_is_named(cli: Cli, path: Path, key: Path) -> None:
    run(cli, path, key, '{"type":"Ping"}')
    path.write_text(path.read_text().replace('"Ping"', '"Pong"'))
    told = cli("audit", "verify", str(path))
    assert told.status == 1
    assert told.out.startswith(f"problem     {path}, line 3 (number 3): was changed or inserted")
    told = cli.json("audit", "verify", str(path))
    assert told.lines[0]["event"] == "finding"
    assert (told.lines[0]["file"], told.lines[0]["line"], told.lines[0]["seq"]) == (str(path), 3, 3)


def test_a_rotated_file(cli: Cli, path: Path, key: Path) -> None:
    rotated = path.with_suffix(".1")
    with process("listen", "--allow-all", "--audit", str(path), "--key", str(key), "--json") as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        cli("request", address, '{"type":"before"}')
        path.rename(rotated)
        listener.send_signal(signal.SIGHUP)
        while not path.exists():
            pass
        cli("request", address, '{"type":"after"}')
        listener.send_signal(signal.SIGTERM)
        assert listener.wait(WAIT) == 0
    # The first line may have been written just after the move.
    assert [record["type"] for record in records(rotated) + records(path)] == ["before", "after"]
    assert records(path)[-1]["type"] == "after"
    told = cli.json("audit", "verify", str(path), str(rotated), "--peer", str(Keypair.load(key).peer_id))
    assert (told.status, told.line["files"], told.line["proven"]) == (0, 2, told.line["lines"])


def test_no_more_problems_are_shown_than_anybody_reads(cli: Cli, path: Path) -> None:
    path.write_text('{"seq":7,"time":"","event":"","hash":"' + "0" * 64 + '"}\n')
    path.write_text(path.read_text() * (MAX_TOLD + 50))
    told = cli.json("audit", "verify", str(path))
    assert len(told.lines) == MAX_TOLD + 1
    assert told.lines[-1]["left_out"] == told.lines[-1]["problems"] + 1 - MAX_TOLD > 40
    assert f"and         {told.lines[-1]['left_out']} more" in cli("audit", "verify", str(path)).out


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("missing",), 2, "audit file missing: No such file or directory"),
        (("here", "--peer", "nobody"), 2, "not a peer id"),
    ],
)
def test_what_is_wrong_with_the_arguments(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    told = cli.json("audit", "verify", *arguments)
    assert told.status == status
    assert error in told.line["message"]


def test_a_file_that_cannot_be_opened(cli: Cli, tmp_path: Path) -> None:
    told = cli.json("listen", "--allow-all", "--audit", str(tmp_path / "missing" / "audit"))
    assert (told.status, told.line["error"]) == (1, "AuditFailed")


def test_a_full_disk_is_loud_and_the_peer_goes_on(cli: Cli) -> None:
    with process("listen", "--allow-all", "--audit", "/dev/full", "--json") as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        told = json.loads(listener.stdout.readline())
        assert (told["error"], told["message"]) == ("AuditFailed", "audit file /dev/full: No space left on device")
        assert cli("request", address, "1").status == 0
        listener.send_signal(signal.SIGTERM)
        assert json.loads(listener.stdout.readline())["message"] == (
            "audit file /dev/full: the last lines could not be written: No space left on device"
        )
        assert listener.wait(WAIT) == 1


def test_the_view_is_in_it_only_if_that_is_wanted(cli: Cli, path: Path) -> None:
    with process("listen", "--allow-all", "--audit", str(path), "--audit-view", "--json") as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        assert cli("request", address, '{"type":"Ping","text":"\\u202etreasure\\u001b[2J"}').status == 0
    (decision,) = records(path)
    assert decision["view"] == '{"type":"Ping","text":"\\u202etreasure\\u001b[2J"}'
    assert [record["outcome"] for record in records(path, "handled")] == ["responded"]


def test_a_relay_has_one_too(cli: Cli, path: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[networks]\nallow = ["192.0.2.0/24"]\n')
    options = ("--audit", str(path), "--audit-required", "--policy", str(policy), "--json")
    with process("relay", "/ip4/127.0.0.1/tcp/0", *options) as relay:
        assert relay.stdout is not None
        events = map(json.loads, relay.stdout)
        address = next(event["address"] for event in events if event["event"] == "listening")
        assert cli("ping", address).status == 3
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(WAIT) == 0
    assert [len(records(path, event)) for event in ("start", "policy", "connections_refused", "stop")] == [1] * 4
    assert records(path, "connections_refused")[0]["reason"].endswith("is in none of the allowed networks")
    assert cli("audit", "verify", str(path)).status == 0


@pytest.mark.parametrize("option", ["--audit-required", "--audit-view"])
def test_options_for_no_audit(cli: Cli, option: str) -> None:
    told = cli.json("listen", "--allow-all", option)
    assert (told.status, told.line["message"]) == (2, f"{option} is for an audit: add --audit FILE")
