from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support.state import opened

from stronghold_p2p.errors import StateError
from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.store.firewall_tables import Remembered

from .conftest import ALICE, BOB, CAROL, PING

INBOUND, OUTBOUND, BOTH = Direction.INBOUND, Direction.OUTBOUND, Direction.BOTH


@pytest.mark.parametrize(
    "rule",
    [
        Rule.ALLOW_ALL,
        Rule.REJECT_ALL,
        Rule.ASK,
        PING,
        Rule.restricted(allow={"é\n", ""}),
        Rule.restricted(allow={"Ping"}, ask={"Sign"}, reject={"Read"}),
        Rule.restricted(ask={"Sign"}),
        Rule.restricted(reject={"Sign"}, otherwise="ask"),
    ],
)
def test_what_was_kept_is_read_after_a_restart(path: Path, rule: Rule) -> None:
    with opened(path) as file:
        file.set_rule(ALICE, INBOUND, rule)
        file.set_rule(BOB, BOTH, rule)
        file.set_banned(CAROL, True)
    with opened(path) as file:
        rules, banned = file.read()
    assert rules == {(ALICE, INBOUND): rule, (BOB, INBOUND): rule, (BOB, OUTBOUND): rule}
    assert banned == {CAROL}
    if not rule.types:
        assert rules[ALICE, INBOUND] is rule  # the gate compares by identity


def test_rules_and_bans_are_replaced_and_removed(path: Path) -> None:
    with opened(path) as file:
        for number in (ALICE, BOB):
            file.set_rule(number, BOTH, Rule.ASK)
            file.set_banned(number, True)
            file.set_banned(number, True)
        file.set_rule(ALICE, INBOUND, None)
        file.set_rule(BOB, OUTBOUND, PING)
        file.set_rule(CAROL, BOTH, None)
        file.set_banned(BOB, False)
        file.set_banned(CAROL, False)
        assert file.read() == Remembered(
            {(ALICE, OUTBOUND): Rule.ASK, (BOB, INBOUND): Rule.ASK, (BOB, OUTBOUND): PING}, frozenset({ALICE})
        )


def test_a_rule_by_a_function_cannot_be_kept(path: Path) -> None:
    with opened(path) as file:
        file.set_rule(ALICE, BOTH, Rule.ASK)
        with pytest.raises(StateError, match="a predicate cannot be stored"):
            file.set_rule(ALICE, BOTH, Rule.restricted(lambda *_: True))
        assert file.read().rules == {(ALICE, INBOUND): Rule.ASK, (ALICE, OUTBOUND): Rule.ASK}


@pytest.mark.parametrize(
    "row",
    [
        (ALICE.to_bytes(), "inbound", "allow"),
        (ALICE.to_bytes(), "inbound", '"maybe"'),
        (ALICE.to_bytes(), "inbound", "[1]"),
        (ALICE.to_bytes(), "inbound", '{"alow":["Ping"]}'),
        (ALICE.to_bytes(), "inbound", '{"allow":["Ping"],"ask":["Ping"]}'),
        (ALICE.to_bytes(), "inbound", '{"otherwise":"allow"}'),
        (ALICE.to_bytes(), "inbound", b'"allow"'),
        (ALICE.to_bytes(), "sideways", '"allow"'),
        (ALICE.to_bytes()[1:], "inbound", '"allow"'),
        (str(ALICE), "inbound", '"allow"'),
        (5, "inbound", '"allow"'),
    ],
)
def test_rows_that_are_no_rules(path: Path, row: tuple[Any, ...]) -> None:
    with opened(path) as file:
        with sqlite3.connect(path) as connection:
            connection.execute("INSERT INTO rules VALUES (?, ?, ?)", row)
        connection.close()
        with pytest.raises(StateError, match="an invalid rule or ban"):
            file.read()
