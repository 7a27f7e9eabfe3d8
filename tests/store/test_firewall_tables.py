from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
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
NOON = datetime(2027, 1, 1, 12, 30, 15, 250_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
TOO_DEEP = '{"rule":"ask","until":"2027-01-01T00:00:00Z","then":' * 5000 + '"ask"' + "}" * 5000


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
        PING.replace(until=NOON),
        Rule.ALLOW_ALL.replace(strict=True, reasons=True),
        Rule.restricted(reject={"Sign"}, otherwise="ask").replace(until=NOON, strict=True),
        Rule.ASK.lend("Sign", NOON).lend("Read", NOON + HOUR),
        Rule.REJECT_ALL.replace(reasons=True).ending(NOON, PING.lend("Sign", NOON + HOUR)),
    ],
    ids=repr,
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
    if not rule.types and not rule.has_options:
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
        with pytest.raises(StateError, match="a predicate cannot be stored"):
            file.set_rule(ALICE, BOTH, Rule.ALLOW_ALL.ending(NOON, Rule.restricted(lambda *_: True)))
        assert file.read().rules == {(ALICE, INBOUND): Rule.ASK, (ALICE, OUTBOUND): Rule.ASK}


def test_options_leave_with_their_rule(path: Path) -> None:
    dated = PING.replace(until=NOON)
    with opened(path) as file:
        file.set_rule(ALICE, BOTH, dated)
        file.set_rule(BOB, BOTH, dated)
        file.set_rule(ALICE, INBOUND, Rule.ASK)
        file.set_rule(BOB, INBOUND, None)
        assert file.read().rules == {
            (ALICE, INBOUND): Rule.ASK,
            (ALICE, OUTBOUND): dated,
            (BOB, OUTBOUND): dated,
        }
        file.set_rule(ALICE, OUTBOUND, dated.replace(until=NOON + HOUR))
        assert file.read().rules[ALICE, OUTBOUND] == PING.replace(until=NOON + HOUR)


def test_what_has_ended_is_dropped_and_nothing_else(path: Path) -> None:
    later = PING.replace(until=NOON + HOUR)
    with opened(path) as file:
        file.set_rule(ALICE, BOTH, PING.replace(until=NOON))
        file.set_rule(BOB, INBOUND, Rule.ASK.lend("Sign", NOON))
        file.set_rule(BOB, OUTBOUND, later)  # somebody has set it since
        file.set_rule(CAROL, INBOUND, PING)
        noon = NOON.timestamp()
        keys = [(ALICE, INBOUND), (BOB, INBOUND), (BOB, OUTBOUND), (CAROL, INBOUND), (CAROL, OUTBOUND)]
        file.drop_ended(dict.fromkeys(keys, noon))
        assert file.read().rules == {
            (ALICE, OUTBOUND): PING.replace(until=NOON),
            (BOB, INBOUND): Rule.ASK,
            (BOB, OUTBOUND): later,
            (CAROL, INBOUND): PING,
        }


VERSION_2_WRITE = "INSERT OR REPLACE INTO rules VALUES (?, ?, ?)"
VERSION_2_READ = "SELECT peer, direction, rule FROM rules"


def test_a_process_of_version_2_that_has_the_file_open_never_takes_an_end_for_none(path: Path) -> None:
    """These are its statements."""
    with opened(path) as file, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as older:
        file.set_rule(ALICE, INBOUND, Rule.ALLOW_ALL.replace(until=NOON))
        file.set_rule(ALICE, OUTBOUND, PING.replace(strict=True))
        assert set(older.execute(VERSION_2_READ)) == {
            (ALICE.to_bytes(), "inbound", '"reject"'),
            (ALICE.to_bytes(), "outbound", '["Ping"]'),
        }
        older.execute(VERSION_2_WRITE, (ALICE.to_bytes(), "inbound", '"ask"'))
        older.execute("DELETE FROM rules WHERE peer = ? AND direction = ?", (ALICE.to_bytes(), "outbound"))
        assert file.read().rules == {(ALICE, INBOUND): Rule.ASK}
        file.set_rule(ALICE, OUTBOUND, PING)
        assert file.read().rules == {(ALICE, INBOUND): Rule.ASK, (ALICE, OUTBOUND): PING}


@pytest.mark.parametrize(
    "row",
    [
        (ALICE.to_bytes(), "inbound", TOO_DEEP),
        (ALICE.to_bytes(), "inbound", "allow"),
        (ALICE.to_bytes(), "inbound", '"maybe"'),
        (ALICE.to_bytes(), "inbound", "[1]"),
        (ALICE.to_bytes(), "inbound", '{"alow":["Ping"]}'),
        (ALICE.to_bytes(), "inbound", '{"allow":["Ping"],"ask":["Ping"]}'),
        (ALICE.to_bytes(), "inbound", '{"otherwise":"allow"}'),
        (ALICE.to_bytes(), "inbound", '{"rule":"allow","until":"2027-01-01T00:00:00"}'),
        (ALICE.to_bytes(), "inbound", '{"rule":"allow","until":"tomorrow"}'),
        (ALICE.to_bytes(), "inbound", '{"rule":"allow","until":1800000000}'),
        (ALICE.to_bytes(), "inbound", '{"rule":"allow","ask":["Ping"]}'),
        (ALICE.to_bytes(), "inbound", '{"rule":"allow","then":"ask"}'),
        (ALICE.to_bytes(), "inbound", '{"rule":"allow","strict":1}'),
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
