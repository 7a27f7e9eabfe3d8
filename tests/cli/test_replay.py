"""``firewall replay``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stronghold_p2p.cli.audit.chain import MAX_LINE
from stronghold_p2p.identity import Keypair

from .conftest import Cli, Ran

ALICE, BOB = (str(Keypair.generate().peer_id) for _ in range(2))
POLICY = f"""
[default]
inbound = {{ allow = ["Ping"], ask = ["Sign"] }}
[peers.bob]
id = "{BOB}"
ban = true
[networks]
deny = ["10.0.0.0/8"]
"""


def past(kind: str | None = "Ping", *, allowed: bool, **others: Any) -> dict[str, Any]:
    values = {"peer": ALICE, "direction": "inbound", "type": kind, "allowed": allowed, "layer": "default", "by": "rule"}
    return {key: value for key, value in (values | others).items() if value is not ...}


class Replay:
    def __init__(self, cli: Cli, folder: Path) -> None:
        self._cli = cli
        self.audit, self.policy = folder / "audit.jsonl", folder / "policy.toml"
        self.policy.write_text(POLICY)

    def __call__(self, *records: dict[str, Any] | str) -> Ran:
        texts = (record if isinstance(record, str) else json.dumps(record) for record in records)
        self.audit.write_text("".join(f"{text}\n" for text in texts))
        return self._cli.json("firewall", "replay", str(self.audit), "--policy", str(self.policy))


@pytest.fixture
def replay(cli: Cli, tmp_path: Path) -> Replay:
    return Replay(cli, tmp_path)


@pytest.mark.parametrize(
    ("decision", "would"),
    [
        (past("Ping", allowed=True), None),
        (past("Ping", allowed=False), ("allowed", "policy default", 3)),
        (past("Read", allowed=True), ("rejected", "policy default", 3)),
        (past("Read", allowed=False), None),
        (past(None, allowed=True), ("rejected", "policy default", 3)),
        (past("Sign", allowed=True), ("asked about", "policy default", 3)),
        (past("Sign", allowed=True, by="person"), None),
        (past("Sign", allowed=False, by="firewall", how="timeout"), None),
        (past("Read", allowed=True, by="approver x"), ("rejected", "policy default", 3)),
        # an answer for the peer goes before the policy's default
        (past("Read", allowed=True, layer="peer"), None),
        (past("Read", allowed=True, layer="policy peer"), ("rejected", "policy default", 3)),
        # whom it does not let connect
        (past("Ping", allowed=True, peer=BOB), ("rejected", "connections", None)),
        (past("Ping", allowed=True, address="/ip4/10.1.2.3/tcp/1"), ("rejected", "connections", None)),
        # what it leaves to other rules
        (past("Read", allowed=True, direction="outbound"), None),
        (past("Read", allowed=True, direction="outbound", layer="policy default"), ("open", "none", None)),
        # what no rule has decided
        (past("Ping", allowed=False, by="firewall", how="limit"), None),
        # of the time when the audit could not be written
        (past("Ping", allowed=False, layer="suspended"), None),
        # of a version that does not tell who decided
        (past("Sign", allowed=True, by=..., layer=...), None),
        (past("Sign", allowed=True, by=..., rule="Rule.ALLOW_ALL"), ("asked about", "policy default", 3)),
        (past("Sign", allowed=True, by=..., rule="Rule.restricted(ask={'Sign'})", waited=2.5), None),
    ],
)
def test_a_decision(replay: Replay, decision: dict[str, Any], would: tuple[str, str, int | None] | None) -> None:
    *changes, summary = replay(decision).lines
    assert [(change["would"], change["layer"], change["policy_line"]) for change in changes] == (
        [would] if would else []
    )
    is_open = would is not None and would[0] == "open"
    assert summary == {
        "event": "summary",
        "decisions": 1,
        "changed": int(would is not None and not is_open),
        "open": int(is_open),
        "others": 0,
    }


def test_what_is_told_of_a_change(replay: Replay, cli: Cli) -> None:
    ran = replay(
        {"event": "start"},
        past(allowed=False, time="2026-01-31T12:00:00.000+00:00", peer=BOB),
        past("Read", allowed=True, time="now", seq=1, hash="00"),
    )
    assert ran.lines[0] == {
        "event": "change",
        "line": 3,
        "time": "now",
        "peer": ALICE,
        "name": None,
        "direction": "inbound",
        "type": "Read",
        "was": "allowed",
        "would": "rejected",
        "layer": "policy default",
        "policy_line": 3,
    }
    assert ran.lines[1]["others"] == 1
    assert cli("firewall", "replay", str(replay.audit), "--policy", str(replay.policy)).out.splitlines() == [
        f"line 3: {ALICE}, inbound Read: was allowed, would be rejected: the policy's default (line 3)",
        "decisions 2, would change 1, left open 0",
    ]


def test_what_a_remote_has_written_is_escaped(replay: Replay, cli: Cli) -> None:
    replay(past("\x1b[2J\u202e", allowed=True))
    told = cli("firewall", "replay", str(replay.audit), "--policy", str(replay.policy)).out
    assert r"inbound '\x1b[2J\u202e': was" in told


def test_a_line_that_is_being_written(replay: Replay, cli: Cli) -> None:
    replay(past(allowed=True))
    with replay.audit.open("a") as file:
        file.write('{"peer":"12D3')
    told = cli.json("firewall", "replay", str(replay.audit), "--policy", str(replay.policy))
    assert (told.status, told.line["decisions"], told.line["others"]) == (0, 1, 1)
    with replay.audit.open("a") as file:
        file.write(" (torn)\n")  # and so it stays after a crash
    told = cli.json("firewall", "replay", str(replay.audit), "--policy", str(replay.policy))
    assert (told.status, told.line["decisions"], told.line["others"]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "no line of an audit: Input data was truncated"),
        ("{", "no line of an audit: Input data was truncated"),
        ("time,peer,type", "no line of an audit: JSON is malformed"),
        ("[1]", "expected an object of JSON"),
        ("\udcff", "no line of an audit: "),
        ("[" * 10_000, "no line of an audit: "),
        (
            json.dumps(past(allowed=True) | {"allowed": 1}),
            "no line of an audit: Expected `bool`, got `int` - at `$.allowed`",
        ),
        (json.dumps(past(allowed=True, direction="in")), "no line of an audit: Invalid enum value"),
        (json.dumps(past(allowed=True, peer="alice")), "invalid address 'alice'"),
        (json.dumps(past(allowed=True, address="here")), "invalid address 'here'"),
        ("x" * (MAX_LINE + 1), f"over {MAX_LINE:,} bytes: no line of an audit"),
    ],
    ids=range(11),
)
def test_what_is_no_audit(replay: Replay, cli: Cli, line: str, reason: str) -> None:
    replay(past(allowed=True))
    with replay.audit.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    told = cli.json("firewall", "replay", str(replay.audit), "--policy", str(replay.policy))
    assert (told.status, told.line["error"]) == (1, "InvalidAudit")
    assert told.line["message"].startswith(f"audit file {replay.audit}, line 2: {reason}")


def test_a_file_that_cannot_be_read(replay: Replay, cli: Cli) -> None:
    told = cli.json("firewall", "replay", str(replay.audit), "--policy", str(replay.policy))
    assert told.line["message"] == f"audit file {replay.audit}: no such file or directory"
    told = cli.json("firewall", "replay", str(replay.audit), "--policy", str(replay.audit))
    assert told.line["error"] == "PolicyError"
