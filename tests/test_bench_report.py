from __future__ import annotations

from typing import Any

import pytest

from bench import relays
from bench.cases import COMPILED, GOALS, LIMIT, OURS, OVER_WEBSOCKET, Goal
from bench.report import Result, number, text, verdict

RELAYED = {
    work: {OURS: {relay: [1.0, 2.0] for relay in (relays.DIRECT, relays.OUR_RELAY, *relays.OTHERS)}}
    for work in relays.WORKS
}


@pytest.mark.parametrize(
    ("goal", "medians", "ratio", "reached"),
    [
        (Goal("64 bytes, 32 in flight", ("a",), 1.5), {OURS: 30.0, "a": 20.0}, 1.5, True),
        (Goal("64 bytes, 32 in flight", ("a", "b"), 1.5), {OURS: 30.0, "a": 20.0, "b": 30.0}, 1.0, False),
        (Goal("connect", ("a",), 1.0), {OURS: 3.0, "a": 2.0}, 1.5, False),
        (Goal("connect", ("a", "b"), 1.0), {OURS: 3.0, "a": 4.0, "b": 6.0}, 0.75, True),
        (Goal("64 bytes, 32 in flight", (), 0.7), {OURS: 4.0, OVER_WEBSOCKET[OURS]: 3.0}, 0.75, True),
    ],
    ids=[
        "one other",
        "the best other",
        "a time that is longer",
        "a time that is shorter than the best",
        "over WebSocket",
    ],
)
def test_goals_hold_ours_against_the_best_other(
    goal: Goal, medians: dict[str, float], ratio: float, reached: bool
) -> None:
    assert goal.ratio(OURS, medians) == ratio
    assert goal.reached(ratio) == reached


@pytest.mark.parametrize("medians", [{}, {OURS: 1.0}, {OURS: 1.0, "a": 1.0}, {"a": 1.0, "b": 1.0}])
def test_a_goal_without_all_its_figures_is_not_judged(medians: dict[str, float]) -> None:
    assert Goal("connect", ("a", "b"), 1.0).ratio(OURS, medians) is None


def test_the_tables_have_every_goal_and_row() -> None:
    names = {name for goal in GOALS for name in goal.others} | {OURS, COMPILED, *OVER_WEBSOCKET.values()}
    medians = {goal.case: dict.fromkeys(names, 2.0) for goal in GOALS}
    row: dict[str, Any] = {
        "name": "an idle stream",
        "value": 3,
        "unit": "KiB",
        "goal": "under 4",
        "reached": True,
        "detail": "",
    }
    compiled = {**row, "value": 5, "reached": False, "detail": "of 64"}
    written = text(Result(3, medians, {OURS: {row["name"]: row}, COMPILED: {row["name"]: compiled}}, {}, RELAYED))
    assert written.count("reached") == len(GOALS) + len(relays.GOALS) + 1
    assert "| an idle stream | 3 KiB | 5 KiB (of 64) | under 4 | reached if pure Python |" in written
    assert f"| {LIMIT} |" in written
    assert "| 64 bytes, 32 in flight, /ws | the same over TCP | 1.00 | 1.00 | at least 0.7 | reached |" in written


def test_the_tables_without_the_compiled_one() -> None:
    medians = {goal.case: {OURS: 1.0, **dict.fromkeys(goal.others, 1.0)} for goal in GOALS}
    row: dict[str, Any] = {
        "name": "an idle stream",
        "value": 5,
        "unit": "KiB",
        "goal": "under 4",
        "reached": False,
        "detail": "",
    }
    written = text(Result(3, medians, {OURS: {row["name"]: row}}, {}, RELAYED))
    assert "| an idle stream | 5 KiB |  | under 4 | **not reached** |" in written
    assert "| connect | rust-libp2p | 1.00 |  | at most 1 | reached |" in written


@pytest.mark.parametrize(
    ("reached", "words"),
    [
        ([True, True], "reached"),
        ([True, None], "reached"),
        ([False, True], "reached if compiled"),
        ([True, False], "reached if pure Python"),
        ([False, False], "**not reached**"),
        ([None, False], "**not reached**"),
    ],
)
def test_verdicts(reached: list[bool | None], words: str) -> None:
    assert verdict(reached) == words


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (2.345, "2.3"), (99.96, "100.0"), (12345.6, "12,346")])
def test_numbers_are_short(value: float | None, shown: str) -> None:
    assert number(value) == shown
