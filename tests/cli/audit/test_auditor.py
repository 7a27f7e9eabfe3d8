from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.decisions import decision as make_decision
from support.waiting import until

from stronghold_p2p import (
    BanChanged,
    Direction,
    Dropped,
    Event,
    FirewallDecision,
    FirewallRules,
    InboundConnectionFailed,
    LimitExceeded,
    LimitReached,
    Multiaddr,
    NameChanged,
    NotPermitted,
    PolicyError,
    PolicyFailed,
    PolicyLoaded,
    ProtocolNotSupported,
    RequestFailed,
    RequestHandled,
    Rule,
    RuleChanged,
    SignedAnswer,
    StateError,
    StateFailed,
    StrongholdP2p,
)
from stronghold_p2p.cli.audit.auditor import Auditor, auditing
from stronghold_p2p.cli.audit.file import AuditFailed, AuditFile
from stronghold_p2p.cli.audit.options import Audit
from stronghold_p2p.cli.audit.record import MAX_TYPE, Record
from stronghold_p2p.cli.audit.verify import Finding, Verifier
from stronghold_p2p.identity import Keypair

KEYPAIR = Keypair.generate()
PEER, RELAY = Keypair.generate().peer_id, Keypair.generate().peer_id
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
MODULE = "stronghold_p2p.cli.audit.auditor"


def decision(type_name: str | None = "Read", **changes: Any) -> FirewallDecision:
    values: dict[str, Any] = {"address": ADDRESS, "rule": Rule.ASK, "allowed": True, "waited": 1.23456, **changes}
    return make_decision(PEER, type_name, **values)


async def stream(*events: Event) -> AsyncIterator[Event]:
    for event in events:
        yield event


class Failures(list[str | None]):
    """What was told of failures, and of their ends."""


async def write(file: Any, *events: Event) -> Failures:
    failures = Failures()
    await Auditor(file, {"event": "start"}, failing=failures.append).run(stream(*events))
    return failures


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def written(path: Path, *events: Event) -> list[Any]:
    """The lines of these events."""
    assert await write(AuditFile(path, KEYPAIR), *events) == []
    first, start, *others, stop, head = records(path)
    assert [first["event"], start["event"], stop["event"], head["event"]] == ["opened", "start", "stop", "head"]
    return others


def text_of(path: Path) -> str:
    return path.read_text()


def move(path: Path) -> Path:
    return path.rename(path.with_suffix(".1"))


def records(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def findings(path: Path) -> list[Finding]:
    found: list[Finding] = []
    verifier = Verifier(found.append)
    for line in path.read_bytes().splitlines(keepends=True):
        verifier.take(line)
    verifier.end()
    return found


async def test_a_line_for_each_decision(path: Path) -> None:
    first, second = await written(
        path,
        decision(),
        RequestFailed(PEER, ValueError("content")),
        decision(None, rule=None, allowed=False, waited=0.0),
    )
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first.pop("time"))).total_seconds() < 30
    assert len(first.pop("hash")) == 64
    assert first == {
        "seq": 3,
        "event": "decision",
        "id": 1,
        "peer": str(PEER),
        "name": None,
        "address": "/ip4/192.0.2.1/tcp/1",
        "relay": None,
        "direction": "inbound",
        "type": "Read",
        "rule": "Rule.ASK",
        "layer": "default",
        "line": None,
        "allowed": True,
        "by": "rule",
        "how": "approved",
        "waited": 1.235,
        "reason": None,
        "signatures": [],
        "observed": None,
    }
    assert (second["type"], second["rule"], second["allowed"], second["waited"]) == (None, None, False, 0.0)
    assert findings(path) == []


async def test_who_has_decided_and_why(path: Path) -> None:
    signed = SignedAnswer(RELAY, False, "once", None, "\u202eno", b"envelope")
    given = decision(
        name="alice", by=f"approver {RELAY}", how="rejected", reason="\x1bno", signatures=(signed,), line=7
    )
    (line,) = await written(path, given)
    assert (line["name"], line["by"], line["how"], line["line"]) == ("alice", f"approver {RELAY}", "rejected", 7)
    assert line["reason"] == "\\x1bno"
    assert line["signatures"] == [
        {
            "approver": str(RELAY),
            "approved": False,
            "scope": "once",
            "seconds": None,
            "reason": "\\u202eno",
            "envelope": "ZW52ZWxvcGU=",
        }
    ]


async def test_a_relay_is_named(path: Path) -> None:
    circuit = Multiaddr.parse(f"{ADDRESS}/p2p/{RELAY}/p2p-circuit")
    lines = await written(path, decision(address=circuit), decision(address=None))
    assert [(one["address"], one["relay"]) for one in lines] == [(str(circuit), str(RELAY)), (None, None)]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Dropped(7), {"event": "dropped", "dropped": 7}),
        (
            LimitReached("max_connections", "192.0.2.1/32", 3),
            {"event": "limit", "limit": "max_connections", "network": "192.0.2.1/32", "count": 3},
        ),
        (PolicyLoaded("policy.toml"), {"event": "policy", "path": "policy.toml"}),
        (
            PolicyFailed(PolicyError("p", 1, "", "bad")),
            {"event": "policy_failed", "error": "policy p, line 1: bad"},
        ),
        (
            RequestHandled(7, PEER, "responded", 0.12345),
            {"event": "handled", "id": 7, "peer": str(PEER), "outcome": "responded", "seconds": 0.123},
        ),
        (BanChanged(PEER, True), {"event": "ban", "peer": str(PEER)}),
        (BanChanged(PEER, False), {"event": "unban", "peer": str(PEER)}),
        (NameChanged(PEER, "bob"), {"event": "name", "peer": str(PEER), "name": "bob"}),
        (NameChanged(PEER, None), {"event": "name", "peer": str(PEER), "name": None}),
        (
            RuleChanged(PEER, Direction.INBOUND, "Rule.ASK"),
            {"event": "rule", "peer": str(PEER), "direction": "inbound", "rule": "Rule.ASK"},
        ),
        (
            RuleChanged(None, Direction.BOTH, None),
            {"event": "rule", "peer": None, "direction": "both", "rule": None},
        ),
        (StateFailed(StateError("s", "bad")), {"event": "state_failed", "error": "state file s: bad"}),
    ],
)
async def test_other_events(path: Path, event: Event, expected: dict[str, Any]) -> None:
    (line,) = await written(path, event)
    assert {name: line[name] for name in expected} == expected


async def test_a_flood_of_refused_connections_is_a_line(path: Path) -> None:
    refused = [InboundConnectionFailed(ADDRESS, NotPermitted(PEER, "it is banned"))] * 1000
    events: list[Event] = [
        *refused,
        InboundConnectionFailed(ADDRESS, LimitExceeded("max_connections")),
        RequestFailed(PEER, OSError()),
    ]
    (line,) = await written(path, *events)
    assert (line["event"], line["count"], line["address"], line["reason"]) == (
        "connections_refused",
        1001,
        str(ADDRESS),
        "Config.max_connections is reached",
    )


async def test_refused_connections_are_told_while_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.REFUSED_INTERVAL", 0.0)
    more = asyncio.Event()

    async def events() -> AsyncIterator[Event]:
        yield InboundConnectionFailed(ADDRESS, NotPermitted(PEER, "it is banned"))
        await more.wait()

    auditor = Auditor(AuditFile(path, KEYPAIR), {"event": "start"}, failing=lambda _: None)
    running = asyncio.create_task(auditor.run(events()))
    await until(lambda: "connections_refused" in text_of(path))
    more.set()
    await running


async def test_without_events_nothing_is_written_before_the_peer_runs(path: Path) -> None:
    assert await write(AuditFile(path, KEYPAIR)) == []
    assert text_of(path) == ""


async def test_each_is_written_and_signed_soon(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.SIGN_AFTER", 0.0)
    more = asyncio.Event()

    async def events() -> AsyncIterator[Event]:
        yield decision("first")
        await more.wait()

    auditor = Auditor(AuditFile(path, KEYPAIR), {"event": "start"}, failing=lambda _: None)
    running = asyncio.create_task(auditor.run(events()))
    await until(lambda: '"head"' in text_of(path))
    assert findings(path) == []
    rotated = move(path)
    auditor.reopen()
    await until(path.exists)
    more.set()
    await running
    assert [record["event"] for record in records(rotated)] == ["opened", "start", "decision", "head"]


async def test_a_type_cannot_fill_the_disk_or_fake_a_line(path: Path) -> None:
    (record,) = await written(
        path, decision("\x1b[2J\n" + "x" * 1_000_000, rule=Rule.restricted(allow={"y" * 1_000_000}))
    )
    assert len(record["type"]) == MAX_TYPE
    assert record["type"].isprintable()
    assert len(text_of(path)) < 10_000


async def test_what_a_remote_wrote_is_escaped(path: Path) -> None:
    hidden = "\u034f\u115f\u2800\u3164\u202e\u2066\x9b\x7f\ud800\U000e0041"
    await written(path, decision(hidden, rule=Rule.restricted(allow={hidden}), name=hidden, reason=hidden, view=hidden))
    text = text_of(path)
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


class Disk:
    """A file whose disk is as the test has it."""

    def __init__(self) -> None:
        self.path = Path("audit")
        self.written: list[Record] = []
        self.failures: list[str] = []
        """Of the next times that it is written."""
        self.is_full = False
        self.tried = 0
        self.closed = False
        self.is_signed = True

    def append(self, records: deque[Record]) -> None:
        self.tried += 1
        if self.is_full:
            raise OSError(1, "No space left")
        if self.failures:
            raise OSError(1, self.failures.pop(0))
        self.written += records
        records.clear()

    def sign(self) -> None:
        self.append(deque([{"event": "head"}]))

    def reopen(self) -> None:
        self.append(deque())

    def close(self) -> None:
        self.closed = True


async def test_what_waits_while_the_disk_is_full_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.RETRY_AFTER", 0.0)
    disk = Disk()
    disk.failures = ["No space left", "No space left", "Input/output error"]

    async def events() -> AsyncIterator[Event]:
        yield decision("1")
        yield decision("2")
        await until(lambda: disk.written)

    failures: list[str | None] = []
    await Auditor(disk, {"event": "start"}, failing=failures.append).run(events())
    assert failures == ["No space left", None]
    assert [record.get("type") for record in disk.written if record["event"] == "decision"] == ["1", "2"]
    assert disk.closed


async def test_a_disk_that_is_full_at_the_end_is_an_error() -> None:
    disk = Disk()
    disk.is_full = True
    with pytest.raises(AuditFailed, match="the last lines could not be written: No space left"):
        await write(disk, decision("1"))
    assert disk.tried == 1


async def test_what_finds_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.MAX_WAITING", 3)
    disk = Disk()
    failures = await write(disk, *(decision(str(number)) for number in range(100)))
    assert failures == ["lines come faster than it takes them", None]
    told = [(record["event"], record.get("type"), record.get("dropped")) for record in disk.written]
    assert told == [
        ("start", None, None),
        ("decision", "0", None),
        ("decision", "1", None),
        ("dropped", None, 99),
        ("head", None, None),
    ]


async def test_a_peer_and_its_audit(path: Path) -> None:
    await run(StrongholdP2p(keypair=KEYPAIR), AuditFile(path, KEYPAIR))
    start, stop = records(path)[1:3]
    assert (start["event"], start["peer"], stop["event"]) == ("start", str(KEYPAIR.peer_id), "stop")
    assert start["version"]


async def test_a_pipe_that_nobody_reads_keeps_nothing_from_ending(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.PATIENCE", 0.0)
    monkeypatch.setattr(f"{MODULE}.STALLED_AFTER", 0.0)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = AuditFile(path, KEYPAIR)
    fill(path)
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(keypair=KEYPAIR)
    with pytest.raises(AuditFailed, match="the last lines could not be written"):
        await run(peer, file)
    os.close(reader)  # and the thread ends


async def run(peer: StrongholdP2p[Any, Any], file: AuditFile) -> None:
    async with auditing(peer, Audit(file, required=False, views=False)) as audit, peer:
        assert audit is not None
        audit.begin()


def fill(pipe: Path) -> None:
    """Until it takes nothing any more."""
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.close(writer)


async def test_requests_stop_while_a_required_audit_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(f"{MODULE}.RETRY_AFTER", 0.0)
    disk: Any = Disk()
    disk.is_full = True
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(firewall=FirewallRules.allow_all())
    peer.on_request(lambda request: request.body)
    async with StrongholdP2p() as other, auditing(peer, Audit(disk, required=True, views=True)) as audit, peer:
        assert audit is not None
        address = await peer.listen()
        audit.begin()
        await until(lambda: disk.tried > 1)
        with pytest.raises(ProtocolNotSupported):
            await other.send_request(address, {"type": "Ping"})
        with pytest.raises(NotPermitted):
            await peer.send_request(other.peer_id, {"type": "Ping"})
        disk.is_full = False
        await until(lambda: disk.written)
        await answered(other, address)
    decisions = [record for record in disk.written if record["event"] == "decision"]
    assert {(record["layer"], record["allowed"]) for record in decisions[:-1]} == {("suspended", False)}
    assert (decisions[-1]["type"], decisions[-1]["view"]) == ("Ping", '{"type":"Ping"}')
    handled = next(record for record in disk.written if record["event"] == "handled")
    assert (handled["id"], handled["outcome"]) == (decisions[-1]["id"], "responded")
    full, again = [record.message for record in caplog.records if "audit" in record.message]
    assert full.startswith("audit file audit: No space left; requests are rejected until it can be written; ")
    assert again == "audit file audit: it is written again"


async def answered(peer: StrongholdP2p[Any, Any], address: Multiaddr) -> None:
    """Asks until there is an answer."""
    while True:
        with contextlib.suppress(ProtocolNotSupported):
            await peer.send_request(address, {"type": "Ping"})
            return


async def test_changes_of_rules_and_bans_are_told(path: Path) -> None:
    async with (
        StrongholdP2p(keypair=KEYPAIR) as peer,
        auditing(peer, Audit(AuditFile(path, KEYPAIR), required=False, views=False)),
    ):
        peer.set_firewall_default(Rule.ASK, direction=Direction.INBOUND)
        peer.set_peer_rule(PEER, Rule.restricted(allow={"Ping"}))
        peer.remove_peer_rule(PEER, direction=Direction.OUTBOUND)
        await peer.ban_peer(PEER)
        await peer.unban_peer(PEER)
    told = [tuple(record.get(name) for name in ("event", "peer", "direction", "rule")) for record in records(path)]
    assert told[2:-2] == [
        ("rule", None, "inbound", "Rule.ASK"),
        ("rule", str(PEER), "both", "Rule.restricted(allow={'Ping'})"),
        ("rule", str(PEER), "outbound", None),
        ("ban", str(PEER), None, None),
        ("unban", str(PEER), None, None),
    ]
