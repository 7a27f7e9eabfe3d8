from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.decisions import decision as make_decision
from support.waiting import until

from stronghold_p2p import Dropped, Event, FirewallDecision, Multiaddr, RequestFailed, Rule
from stronghold_p2p.cli.audit import MAX_TYPE, AuditFailed, end_audit, open_audit, write_audit
from stronghold_p2p.identity import Keypair

from .conftest import WAIT, Cli, process

PEER, RELAY = Keypair.generate().peer_id, Keypair.generate().peer_id
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")


def decision(type_name: str | None = "Read", **changes: Any) -> FirewallDecision:
    values: dict[str, Any] = {"address": ADDRESS, "rule": Rule.ASK, "allowed": True, "waited": 1.23456, **changes}
    return make_decision(PEER, type_name, **values)


async def stream(*events: Event) -> AsyncIterator[Event]:
    for event in events:
        yield event


def records(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_line_for_each_decision(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    events = (
        decision(),
        RequestFailed(PEER, ValueError("content")),
        decision(None, rule=None, allowed=False, waited=0.0),
    )
    await write_audit(open_audit(path), stream(*events))
    first, second = records(path)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first.pop("time"))).total_seconds() < WAIT
    assert first == {
        "peer": str(PEER),
        "address": "/ip4/192.0.2.1/tcp/1",
        "relay": None,
        "direction": "inbound",
        "type": "Read",
        "rule": "Rule.ASK",
        "layer": "default",
        "allowed": True,
        "waited": 1.235,
    }
    assert (second["type"], second["rule"], second["allowed"], second["waited"]) == (None, None, False, 0.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_relay_is_named(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    circuit = Multiaddr.parse(f"{ADDRESS}/p2p/{RELAY}/p2p-circuit")
    await write_audit(open_audit(path), stream(decision(address=circuit), decision(address=None)))
    assert [(one["address"], one["relay"]) for one in records(path)] == [(str(circuit), str(RELAY)), (None, None)]


async def test_it_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(2):
        await write_audit(open_audit(path), stream(decision()))
    assert len(records(path)) == 2


async def test_what_was_dropped_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    await write_audit(open_audit(path), stream(decision(), Dropped(7), decision()))
    assert [record.get("dropped") for record in records(path)] == [None, 7, None]


async def test_more_than_waits_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stronghold_p2p.cli.audit.MAX_WAITING", 3)
    path = tmp_path / "audit"
    await write_audit(open_audit(path), stream(*(decision(str(number)) for number in range(100))))
    assert [record["type"] for record in records(path)] == [str(number) for number in range(100)]


async def test_a_type_cannot_fill_the_disk_or_fake_a_line(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    await write_audit(open_audit(path), stream(decision("\x1b[2J\n" + "x" * 1_000_000)))
    (record,) = records(path)
    assert len(record["type"]) == MAX_TYPE
    assert record["type"].isprintable()


async def test_each_is_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    more = asyncio.Event()

    async def events() -> AsyncIterator[Event]:
        yield decision("first")
        await more.wait()

    writing = asyncio.create_task(write_audit(open_audit(path), events()))
    await until(path.read_text)
    more.set()
    await writing


async def test_a_full_disk() -> None:
    with pytest.raises(AuditFailed, match="No space left"):
        await write_audit(open_audit(Path("/dev/full")), stream(decision()))


@pytest.mark.parametrize("leave", [os.unlink, lambda path: path.rename(path.with_suffix(".1"))])
async def test_a_file_that_is_moved_or_removed_is_made_again(tmp_path: Path, leave: Callable[[Path], object]) -> None:
    path = tmp_path / "audit"
    file = open_audit(path)
    file.append(b"1\n")
    leave(path)
    file.append(b"2\n")
    file.append(b"3\n")
    assert path.read_text() == "2\n3\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("")  # shortened in place, as `copytruncate` of logrotate does
    file.append(b"4\n")
    assert path.read_text() == "4\n"
    file.close()


def no_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def an_unread_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("change", [no_folder, a_folder, an_unread_pipe, a_circle])
async def test_a_file_that_cannot_be_made_again(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "folder" / "audit"
    path.parent.mkdir()
    file = open_audit(path)
    change(path)
    with pytest.raises(AuditFailed, match=r"audit file .*audit: [A-Z]"):
        await write_audit(file, stream(decision()))


async def test_a_pipe_with_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    await write_audit(open_audit(path), stream(decision(), decision()))
    assert [json.loads(line)["type"] for line in os.read(reader, 4096).splitlines()] == ["Read", "Read"]
    os.close(reader)


async def test_a_pipe_whose_reader_leaves(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = open_audit(path)
    os.close(reader)
    with pytest.raises(AuditFailed, match="Broken pipe"):
        await write_audit(file, stream(decision()))


async def test_a_pipe_that_nobody_reads_keeps_nothing_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stronghold_p2p.cli.audit.PATIENCE", 0.01)
    path = tmp_path / "audit"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = open_audit(path)
    writing = asyncio.create_task(write_audit(file, stream(*[decision()] * 1000)))
    with pytest.raises(AuditFailed, match="the last decisions could not be written"):
        await end_audit(writing, file)
    os.close(reader)  # and the thread ends


def test_what_a_remote_wrote_is_escaped(tmp_path: Path) -> None:
    hidden = "\u034f\u115f\u2800\u3164\u202e\x9b\x7f"
    path = tmp_path / "audit"
    asyncio.run(write_audit(open_audit(path), stream(decision(hidden, rule=f"Rule.restricted({hidden})"))))
    (line,) = path.read_text().splitlines()
    assert line.isascii()
    assert line.isprintable()


def test_a_file_that_cannot_be_opened(cli: Cli, tmp_path: Path) -> None:
    told = cli.json("listen", "--allow-all", "--audit", str(tmp_path / "missing" / "audit"))
    assert (told.status, told.line["error"]) == (1, "AuditFailed")


def test_without_an_audit_nothing_is_decided(cli: Cli) -> None:
    with process("listen", "--allow-all", "--audit", "/dev/full", "--json") as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        cli("request", address, "1")
        assert json.loads(listener.stdout.readline())["error"] == "AuditFailed"
        assert listener.wait(WAIT) == 1


def test_the_last_decision_is_in_it(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with process("listen", "--allow-all", "--audit", str(path), "--json") as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        assert cli("request", address, '{"type":"Ping","secret":"treasure"}').status == 0
        listener.send_signal(signal.SIGINT)
        assert listener.wait(WAIT) == 130
    (record,) = records(path)
    assert (record["type"], record["layer"], record["allowed"]) == ("Ping", "default", True)
    assert "treasure" not in path.read_text()


def test_a_rotated_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with process("listen", "--allow-all", "--audit", str(path), "--json") as listener:
        assert listener.stdout is not None
        address = json.loads(listener.stdout.readline())["address"]
        cli("request", address, '{"type":"before"}')
        path.rename(tmp_path / "audit.1")
        cli("request", address, '{"type":"after"}')
        listener.send_signal(signal.SIGTERM)
        assert listener.wait(WAIT) == 0
    # The first line may have been written just after the move.
    assert [record["type"] for record in records(tmp_path / "audit.1") + records(path)] == ["before", "after"]
    assert records(path)[-1]["type"] == "after"
