from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support.state import opened

from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.identity import Keypair
from stronghold_p2p.store.database import Database
from stronghold_p2p.store.firewall_tables import FirewallTables

from .conftest import Cli

ALICE, BOB = sorted((Keypair.generate().peer_id for _ in range(2)), key=str)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


def record(inbound: Any = None, outbound: Any = None, banned: bool = False, name: str | None = None) -> dict[str, Any]:
    return {"peer": str(ALICE), "name": name, "inbound": inbound, "outbound": outbound, "banned": banned}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("allow",), record("allow", "ask")),
        (("reject", "--direction", "both"), record("reject", "reject")),
        (("ask", "--direction", "both"), record("ask", "ask")),
        (("allow", "--direction", "outbound", "--types", "Read, Ping"), record("ask", ["Ping", "Read"])),
        (
            ("restrict", "--allow", "Ping", "--ask", "Sign", "--reject", "Read, Write"),
            record({"allow": ["Ping"], "ask": ["Sign"], "reject": ["Read", "Write"]}, "ask"),
        ),
        (("restrict", "--allow", "Ping"), record(["Ping"], "ask")),
        (("restrict", "--allow", "Ping", "--allow", "Read"), record(["Ping", "Read"], "ask")),
        (("restrict", "--otherwise", "ask", "--direction", "inbound"), record("ask", "ask")),
        (
            ("restrict", "--direction", "outbound", "--reject", "Sign", "--otherwise", "ask"),
            record("ask", {"reject": ["Sign"], "otherwise": "ask"}),
        ),
        (("remove", "--direction", "outbound"), record("ask", None)),
        (("remove",), record()),
        (("ban",), record("ask", "ask", True)),
        (("unban",), record("ask", "ask")),
        (("name", "alice"), record("ask", "ask", name="alice")),
        (("unname",), record("ask", "ask")),
    ],
)
def test_an_edit_prints_what_holds_for_the_peer_now(
    cli: Cli, file: str, arguments: tuple[str, ...], expected: dict[str, Any]
) -> None:
    with opened(file) as state:
        state.set_rule(ALICE, Direction.BOTH, Rule.ASK)
        state.set_rule(BOB, Direction.BOTH, Rule.REJECT_ALL)
    command, *options = arguments
    edited = cli.json("firewall", command, str(ALICE), *options, "--state", file)
    assert (edited.status, edited.line) == (0, expected)
    listed = cli.json("firewall", "list", "--state", file)
    assert [line for line in listed.lines if line["peer"] == str(ALICE)] == [expected] * (expected != record())
    assert listed.lines[-1]["peer"] == str(BOB)


def test_it_edits_a_file_that_is_in_use(cli: Cli, file: str) -> None:
    with Database(file) as database:
        version = database.data_version
        assert cli("firewall", "ban", ALICE.to_cid(), "--state", file).status == 0
        assert database.data_version != version
        assert FirewallTables(database).read().banned == {ALICE}


def test_for_people_the_list_is_a_table(cli: Cli, file: str) -> None:
    with opened(file) as state:
        state.set_rule(ALICE, Direction.INBOUND, Rule.restricted(allow={"Ping", "\x1b[2J"}))
        state.set_rule(BOB, Direction.OUTBOUND, Rule.restricted(allow={"Ping"}, ask={"Sign"}))
        state.set_banned(BOB, True)
    assert cli("firewall", "name", str(BOB), "bob's phone", "--state", file).status == 0
    assert cli("firewall", "list", "--state", file).out.splitlines() == [
        f"{'PEER':52}  NAME         INBOUND                OUTBOUND                             BANNED",
        rf"{ALICE}  -            allow '\x1b[2J', Ping  -                                    -",
        rf"{BOB}  bob's phone  -                      allow Ping; ask Sign; reject others  yes",
    ]


def test_an_empty_list(cli: Cli, file: str) -> None:
    Database(file).close()
    assert cli("firewall", "list", "--state", file).out == "no rules, no bans and no names\n"
    listed = cli.json("firewall", "list", "--state", file)
    assert (listed.status, listed.out) == (0, "")


@pytest.mark.parametrize("command", ["list", "remove", "unban", "unname"])
def test_what_needs_a_file_makes_none(cli: Cli, file: str, command: str) -> None:
    told = cli.json("firewall", command, *([] if command == "list" else [str(ALICE)]), "--state", file)
    assert (told.status, told.line["error"]) == (1, "StateError")
    assert not Path(file).exists()


@pytest.mark.parametrize("command", ["list", "allow", "ban"])
def test_what_is_no_state_file(cli: Cli, file: str, command: str) -> None:
    Path(file).write_text("alice = 'allow'\n" * 100)
    told = cli.json("firewall", command, *([] if command == "list" else [str(ALICE)]), "--state", file)
    assert (told.status, told.line["error"]) == (1, "StateError")
    assert file in told.line["message"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("allow", "alice"), "InvalidAddress"),
        (("name", str(ALICE), " alice"), "InvalidName"),
        (("name", str(ALICE)), "UsageError"),
        (("ban", "/ip4/127.0.0.1/tcp/1"), "InvalidAddress"),
        (("allow", str(ALICE), "--types", "Ping,,Read"), "UsageError"),
        (("allow", str(ALICE), "--types", ""), "UsageError"),
        (("reject", str(ALICE), "--types", "Ping"), "UsageError"),
        (("restrict", str(ALICE)), "UsageError"),
        (("restrict", str(ALICE), "--allow", "Ping", "--ask", "Ping"), "UsageError"),
        (("restrict", str(ALICE), "--ask", ","), "UsageError"),
        (("ban", str(ALICE), "--direction", "inbound"), "UsageError"),
        (("ask", str(ALICE), "--direction", "sideways"), "UsageError"),
        (("ask",), "UsageError"),
        (("list", str(ALICE)), "UsageError"),
    ],
)
def test_usage(cli: Cli, file: str, arguments: tuple[str, ...], error: str) -> None:
    told = cli.json("firewall", *arguments, "--state", file)
    assert (told.status, told.line["error"]) == (2, error)
    assert not Path(file).exists()


def test_the_file_must_be_named(cli: Cli) -> None:
    told = cli.json("firewall", "list")
    assert (told.status, told.line["error"]) == (2, "UsageError")


# -- names -----------------------------------------------------------------------------------------------


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.toml"
    path.write_text(f'[peers."the boss"]\nid = "{BOB}"\n')
    return str(path)


def test_a_name_stands_for_its_peer(cli: Cli, file: str) -> None:
    assert cli.json("firewall", "name", str(ALICE), "alice", "--state", file).line == record(name="alice")
    assert cli.json("firewall", "ban", "alice", "--state", file).line == record(banned=True, name="alice")
    assert cli.json("firewall", "name", "alice", "al", "--state", file).line == record(banned=True, name="al")
    told = cli.json("firewall", "unban", "alice", "--state", file)
    assert (told.status, told.line["error"]) == (2, "InvalidAddress")
    assert cli.json("firewall", "unban", "al", "--state", file).line == record(name="al")
    assert cli.json("firewall", "list", "--state", file).line == record(name="al")
    assert cli.json("firewall", "unname", "al", "--state", file).line == record()
    assert cli.json("firewall", "list", "--state", file).out == ""


def test_a_name_like_that_of_another_is_refused(cli: Cli, file: str, policy: str) -> None:
    cli("firewall", "name", str(BOB), "bob", "--state", file)
    told = cli.json("firewall", "name", str(ALICE), "Bob", "--state", file)
    assert (told.status, told.line["error"]) == (2, "InvalidName")
    told = cli.json("firewall", "name", str(ALICE), "the boss", "--state", file, "--policy", policy)
    assert told.line["message"] == f"name 'the boss': is the name of {BOB} in the policy"
    assert cli.json("firewall", "list", "--state", file).line["peer"] == str(BOB)


def test_a_rule_that_the_policy_goes_before_is_told(cli: Cli, file: str, policy: str) -> None:
    with open(policy, "a") as its:
        its.write('inbound = "allow"\n')
    for options, is_told in ((), True), (("--direction", "inbound"), True), (("--direction", "outbound"), False):
        told = cli("firewall", "reject", "the boss", "--state", file, "--policy", policy, *options)
        assert (told.status, f"the inbound rule that the policy has for the boss ({str(BOB)[:7]}" in told.out) == (
            0,
            is_told,
        )
        assert "the outbound rule" not in told.out
    assert "goes first" not in cli("firewall", "reject", str(ALICE), "--state", file, "--policy", policy).out


def test_names_of_the_policy(cli: Cli, file: str, policy: str) -> None:
    banned = cli.json("firewall", "ban", "the boss", "--state", file, "--policy", policy).line
    assert (banned["peer"], banned["name"]) == (str(BOB), "the boss")
    cli("firewall", "name", str(BOB), "bob", "--state", file)
    assert cli.json("firewall", "list", "--state", file).line["name"] == "bob"
    assert cli.json("firewall", "list", "--state", file, "--policy", policy).line["name"] == "the boss"


@pytest.mark.parametrize(
    ("command", "said"),
    [("remove", "has no rule to remove"), ("unban", "has no ban to lift"), ("unname", "has no name")],
)
def test_there_is_nothing_to_take_away(cli: Cli, file: str, command: str, said: str) -> None:
    Database(file).close()
    told = cli("firewall", command, str(ALICE), "--state", file)
    assert told.status == 0
    assert told.out.startswith(f"{ALICE} {said}")
    told = cli.json("firewall", command, str(ALICE), "--state", file)
    assert told.line == record()


def test_people_see_the_name_in_what_is_said(cli: Cli, file: str) -> None:
    cli("firewall", "name", str(ALICE), "alice", "--state", file)
    told = cli("firewall", "unban", str(ALICE), "--state", file)
    assert told.out.startswith(f"alice ({str(ALICE)[:7]}…{str(ALICE)[-6:]}) has no ban to lift\n")


LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=400)


@pytest.mark.parametrize(
    ("arguments", "inbound"),
    [
        (("allow", "--strict"), {"rule": "allow", "strict": True}),
        (("allow", "--types", "Ping", "--reasons"), {"allow": ["Ping"], "reasons": True}),
        (("reject", "--until", LATER.isoformat()), {"rule": "reject", "until": LATER.isoformat()}),
        (
            ("ask", "--until", f"{LATER.astimezone(timezone(timedelta(hours=5))):%Y-%m-%dT%H:%M:%S%z}"),
            {"rule": "ask", "until": LATER.isoformat()},
        ),
        (
            (
                "restrict",
                "--ask",
                "Sign",
                "--until",
                f"{LATER.astimezone():%Y-%m-%d %H:%M:%S}",
                "--strict",
                "--reasons",
            ),
            {"ask": ["Sign"], "until": LATER.isoformat(), "strict": True, "reasons": True},
        ),
    ],
)
def test_a_rule_with_options(cli: Cli, file: str, arguments: tuple[str, ...], inbound: dict[str, Any]) -> None:
    command, *options = arguments
    told = cli.json("firewall", command, str(ALICE), "--direction", "inbound", "--state", file, *options)
    assert (told.status, told.line) == (0, record(inbound))


def test_a_rule_for_some_seconds(cli: Cli, file: str) -> None:
    before = datetime.now(UTC)
    told = cli.json("firewall", "allow", str(ALICE), "--for", "3600", "--direction", "inbound", "--state", file)
    after = datetime.now(UTC)
    hour = timedelta(hours=1)
    assert before + hour <= datetime.fromisoformat(told.line["inbound"]["until"]) <= after + hour


def test_what_has_ended_is_not_listed(cli: Cli, file: str) -> None:
    """Whether a peer has removed it from the file or not."""
    with opened(file) as state:
        state.set_rule(ALICE, Direction.BOTH, Rule.ALLOW_ALL.replace(until=LATER - timedelta(days=401)))
        state.set_rule(BOB, Direction.INBOUND, Rule.ASK.lend("Sign", LATER - timedelta(days=401)))
    listed = cli.json("firewall", "list", "--state", file)
    assert [(line["peer"], line["inbound"], line["outbound"]) for line in listed.lines] == [(str(BOB), "ask", None)]


def test_for_people_ends_and_what_comes_after_are_shown(cli: Cli, file: str) -> None:
    asks = Rule.restricted(allow={"Ping"}, ask={"Sign"})
    with opened(file) as state:
        state.set_rule(ALICE, Direction.INBOUND, asks.lend("Sign", LATER).replace(strict=True))
        state.set_rule(ALICE, Direction.OUTBOUND, Rule.REJECT_ALL.replace(reasons=True))
    end = LATER.astimezone().isoformat(" ", "seconds")
    (line,) = cli("firewall", "list", "--state", file).out.splitlines()[1:]
    inbound = f"allow Ping, Sign until {end}, strict; then allow Ping; ask Sign; reject others"
    assert line == f"{ALICE}  -     {inbound}  reject, reasons  -"


@pytest.mark.parametrize(
    "arguments",
    [
        ("allow", "--until", "tomorrow"),
        ("allow", "--until", "2020-01-01"),
        ("allow", "--until", "9999-12-31T23:59:59-05:00"),
        ("ask", "--for", "0"),
        ("ask", "--for", "-5"),
        ("ask", "--for", "nan"),
        ("ask", "--for", "1e15"),
        ("reject", "--for", "5", "--until", "2100-01-01"),
        ("remove", "--for", "5"),
        ("ban", "--until", "2100-01-01"),
    ],
)
def test_ends_that_cannot_be(cli: Cli, file: str, arguments: tuple[str, ...]) -> None:
    command, *options = arguments
    told = cli.json("firewall", command, str(ALICE), "--state", file, *options)
    assert (told.status, told.line["error"]) == (2, "UsageError")
    assert not Path(file).exists()
