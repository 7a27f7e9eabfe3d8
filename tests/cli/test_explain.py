"""``firewall explain``, ``who`` and ``check``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.state import opened

from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.identity import Keypair
from stronghold_p2p.store.database import Database
from stronghold_p2p.store.name_table import NameTable

from .conftest import Cli

ALICE, BOB, MALLORY, DORA = sorted((Keypair.generate().peer_id for _ in range(4)), key=str)
PAST, FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
LOCAL_FUTURE = FUTURE.astimezone().isoformat(" ")
POLICY = f"""
[default]
inbound = {{ rule = "allow", until = 2001-01-01T00:00:00Z }}
[peers.alice]
id = "{ALICE}"
inbound = {{ allow = ["Ping"], ask = ["Sign"], until = 2100-01-01T00:00:00Z, strict = true }}
[peers.mallory]
id = "{MALLORY}"
ban = true
[groups.ops]
peers = ["alice", "{BOB}"]
outbound = "reject"
per_second = 0.5
[networks]
allow = ["10.0.0.0/8"]
deny = ["10.9.0.0/16"]
[types.Sign]
per_second = 2
max_bytes = 4096
[limits]
requests_in_flight = 8
[approval]
approvers = ["{BOB}"]
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return str(path)


@pytest.fixture
def state(tmp_path: Path) -> str:
    path = tmp_path / "peer.db"
    with opened(str(path)) as tables:
        tables.set_rule(BOB, Direction.INBOUND, Rule.restricted(allow={"Read"}))
        tables.set_rule(ALICE, Direction.BOTH, Rule.REJECT_ALL)
        tables.set_rule(DORA, Direction.INBOUND, Rule.ALLOW_ALL.replace(until=PAST))
        tables.set_rule(DORA, Direction.OUTBOUND, Rule.ALLOW_ALL.replace(until=FUTURE))
    with Database(path) as database:
        NameTable(database).set(DORA, "dora")
    return str(path)


def decision(
    verdict: str | None, layer: str, line: int | None = None, rule: Any = None, **others: Any
) -> dict[str, Any]:
    return {"verdict": verdict, "layer": layer, "line": line, "rule": rule, "ended": [], **others}


# -- explain -------------------------------------------------------------------------------------------


def test_a_rule_of_the_policy(cli: Cli, policy: str, state: str) -> None:
    told = cli.json("firewall", "explain", "alice", "--type", "Sign", "--policy", policy, "--state", state)
    ended = [{"layer": "policy default", "line": 3, "until": "2001-01-01T00:00:00+00:00"}]
    rule = {"allow": ["Ping"], "ask": ["Sign"], "strict": True, "until": "2100-01-01T00:00:00+00:00"}
    assert told.line == {
        "peer": str(ALICE),
        "name": "alice",
        "mode": "enforce",
        "type": "Sign",
        "connections": {
            "allowed": True,
            "reason": None,
            "line": None,
            "allow_networks": ["10.0.0.0/8"],
            "deny_networks": ["10.9.0.0/16"],
            "relay": "allow",
        },
        "approval": {"approvers": [str(BOB)], "need": 1},
        "inbound": decision("ask", "policy peer", 6, rule, ended=ended),
        "outbound": decision("reject", "policy peer", 12, "reject"),
        "limits": {
            "per_second": 0.5,
            "in_flight": 8,
            "max_bytes": None,
            "of_type": {"per_second": 2.0, "in_flight": None, "max_bytes": 4096},
        },
    }


def test_in_words(cli: Cli, policy: str, state: str) -> None:
    told = cli("firewall", "explain", "alice", "--type", "Sign", "--policy", policy, "--state", state)
    rule = f"allow Ping; ask Sign; reject others until {LOCAL_FUTURE}, strict"
    assert told.out.splitlines() == [
        f"peer         alice  {ALICE}",
        "connections  admitted; from and to 10.0.0.0/8 only; not from and to 10.9.0.0/16",
        f"inbound      ask Sign: the policy, for this peer (line 6): {rule}",
        "             passed over: a rule of the policy's default (line 3), which has ended",
        "limits       0.5 a second, 8 at once; of Sign 2 a second, 4,096 bytes each",
        "outbound     reject Sign: the policy, for this peer (line 12)",
        f"approval     1 of {BOB}",
    ]


def test_without_a_type_the_rule_is_shown(cli: Cli, policy: str) -> None:
    told = cli("firewall", "explain", "alice", "--policy", policy, "--direction", "inbound")
    rule = f"allow Ping; ask Sign; reject others until {LOCAL_FUTURE}, strict"
    assert f"inbound      {rule}: the policy, for this peer (line 6)" in told.out.splitlines()
    assert "outbound" not in told.out
    told = cli.json("firewall", "explain", "alice", "--policy", policy)
    assert told.line["inbound"]["verdict"] is None
    assert told.line["outbound"]["verdict"] == "reject"


def test_a_ban_of_the_policy(cli: Cli, policy: str) -> None:
    told = cli.json("firewall", "explain", str(MALLORY), "--policy", policy)
    assert (told.line["connections"]["reason"], told.line["connections"]["line"]) == ("the policy bans it", 9)
    assert told.line["inbound"]["verdict"] == told.line["outbound"]["verdict"] == "reject"
    assert told.line["inbound"]["layer"] == "connections"
    shown = cli("firewall", "explain", "mallory", "--policy", policy).out
    assert "connections  refused: the policy bans it (line 9)" in shown


def test_a_ban_of_the_state_file(cli: Cli, state: str) -> None:
    with opened(state) as tables:
        tables.set_banned(BOB, True)
    told = cli.json("firewall", "explain", str(BOB), "--state", state)
    assert told.line["connections"]["reason"] == "it is banned in the state file"
    assert told.line["inbound"] == decision("reject", "connections")


def test_rules_of_the_state_file(cli: Cli, policy: str, state: str) -> None:
    bob = cli.json("firewall", "explain", str(BOB), "--type", "Read", "--policy", policy, "--state", state).line
    assert bob["inbound"] == decision("allow", "peer", None, ["Read"], ended=bob["inbound"]["ended"])
    assert [ended["layer"] for ended in bob["inbound"]["ended"]] == ["policy default"]
    dora = cli.json("firewall", "explain", "dora", "--state", state).line
    ended = [{"layer": "peer", "line": None, "until": "2001-01-01T00:00:00+00:00"}]
    assert dora["inbound"] == decision("ask", "none", ended=ended)
    rule = {"rule": "allow", "until": "2100-01-01T00:00:00+00:00"}
    assert dora["outbound"] == decision("allow", "peer", None, rule)


def test_a_policy_that_is_only_observed(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('mode = "observe"\ndefault.inbound = "allow"\ndefault.relay = "never"')
    told = cli("firewall", "explain", str(ALICE), "--policy", str(path)).out
    assert "connections  admitted; by no relay\n" in told
    assert "mode         the policy is only observed: all that it says here decides nothing\n" in told
    assert cli.json("firewall", "explain", str(ALICE), "--policy", str(path)).line["mode"] == "observe"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("explain", "alice"), "UsageError"),
        (("explain",), "UsageError"),
        (("who", "--policy", "{policy}"), "UsageError"),
        (("explain", "nobody", "--policy", "{policy}"), "InvalidAddress"),
        (("explain", "alice", "--policy", "{policy}x"), "PolicyError"),
        (("explain", "alice", "--state", "{policy}x"), "StateError"),
        (("check", "{policy}x"), "PolicyError"),
    ],
)
def test_what_cannot_be_told(cli: Cli, policy: str, arguments: tuple[str, ...], error: str) -> None:
    told = cli.json("firewall", *(argument.replace("{policy}", policy) for argument in arguments))
    assert told.status != 0
    assert told.line["error"] == error


# -- who -----------------------------------------------------------------------------------------------


def test_who_may(cli: Cli, policy: str, state: str) -> None:
    def who(type_name: str, *options: str) -> list[tuple[Any, ...]]:
        told = cli.json("firewall", "who", "--type", type_name, "--policy", policy, *options)
        return [(line["peer"], line["direction"], line["verdict"], line["layer"], line["line"]) for line in told.lines]

    others = (None, "inbound", "ask", "none", None)
    assert who("Sign") == [
        (str(ALICE), "inbound", "ask", "policy peer", 6),
        (str(BOB), "inbound", "ask", "none", None),
        others,
    ]
    assert who("Read", "--state", state) == [
        (str(BOB), "inbound", "allow", "peer", None),
        (str(DORA), "inbound", "ask", "none", None),
        others,
    ]
    assert who("Read", "--direction", "outbound") == [(None, "outbound", "allow", "default", None)]


def test_who_in_words(cli: Cli, policy: str) -> None:
    assert cli("firewall", "who", "--type", "Ping", "--policy", policy).out.splitlines() == [
        f"{'PEER':52}  NAME   DIRECTION  VERDICT  BY",
        f"{ALICE}  alice  inbound    allow    the policy, for this peer (line 6)",
        f"{BOB}  -      inbound    ask      no rule, so a question about the peer",
        f"{'all others':52}  -      inbound    ask      no rule, so a question about the peer",
    ]


def test_nobody_may(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('default.inbound = "reject"')
    assert cli("firewall", "who", "--type", "Ping", "--policy", str(path)).out == "nobody\n"
    assert cli.json("firewall", "who", "--type", "Ping", "--policy", str(path)).out == ""


# -- check ---------------------------------------------------------------------------------------------


def test_a_policy_that_is_valid(cli: Cli, policy: str) -> None:
    with Path(policy).open("a") as file:
        file.write('[[tests]]\npeer = "ops"\ndirection = "outbound"\nexpect = "reject"\n')
    assert cli.json("firewall", "check", policy).line == {
        "path": policy,
        "mode": "enforce",
        "peers": 3,
        "groups": 1,
        "tests": 1,
        "ended": [{"line": 3, "until": "2001-01-01T00:00:00+00:00"}],
    }
    assert cli("firewall", "check", policy).out.splitlines() == [
        f"{policy}: peers 3, groups 1, tests passed 1",
        f"line 3: the rule ended at {PAST.astimezone().isoformat(' ')}",
    ]


def test_a_policy_that_fails_its_test(cli: Cli, policy: str) -> None:
    with Path(policy).open("a") as file:
        file.write('[[tests]]\npeer = "alice"\ntype = "Ping"\nexpect = "reject"\n')
    told = cli("firewall", "check", policy)
    assert told.status == 1
    assert f"policy {policy}, line 27, tests.expect: the test fails: the policy allows it" in told.err


def test_a_name_with_escapes_reaches_no_terminal(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f'[peers."\\u001b[2J"]\nid = "{ALICE}"')
    told = cli("firewall", "check", str(path))
    assert told.status == 1
    assert "\x1b" not in told.err
