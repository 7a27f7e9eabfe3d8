from __future__ import annotations

import pytest

from bench.cases import GOALS, LIMIT, Goal
from bench.report import Result, number, text


@pytest.mark.parametrize(
    ("goal", "medians", "ratio", "reached"),
    [
        (Goal("64 bytes, 32 in flight", ("a",), 1.5), {"stronghold-p2p": 30.0, "a": 20.0}, 1.5, True),
        (Goal("64 bytes, 32 in flight", ("a", "b"), 1.5), {"stronghold-p2p": 30.0, "a": 20.0, "b": 30.0}, 1.0, False),
        (Goal("connect", ("a",), 1.0), {"stronghold-p2p": 3.0, "a": 2.0}, 1.5, False),
        (Goal("connect", ("a", "b"), 1.0), {"stronghold-p2p": 3.0, "a": 4.0, "b": 6.0}, 0.75, True),
    ],
    ids=["one other", "the best other", "a time that is longer", "a time that is shorter than the best"],
)
def test_goals_hold_ours_against_the_best_other(
    goal: Goal, medians: dict[str, float], ratio: float, reached: bool
) -> None:
    assert goal.ratio(medians) == ratio
    assert goal.reached(ratio) == reached


@pytest.mark.parametrize(
    "medians", [{}, {"stronghold-p2p": 1.0}, {"stronghold-p2p": 1.0, "a": 1.0}, {"a": 1.0, "b": 1.0}]
)
def test_a_goal_without_all_its_figures_is_not_judged(medians: dict[str, float]) -> None:
    assert Goal("connect", ("a", "b"), 1.0).ratio(medians) is None


def test_the_tables_have_every_goal_and_row() -> None:
    names = {name for goal in GOALS for name in goal.others} | {"stronghold-p2p"}
    medians = {goal.case: dict.fromkeys(names, 2.0) for goal in GOALS}
    row = {"name": "an idle stream", "value": 3, "unit": "KiB", "goal": "under 4", "reached": True}
    written = text(Result(3, {}, medians, [row], {}))
    assert written.count("reached") == len(GOALS) + 1
    assert "| an idle stream | 3 KiB | under 4 | reached |" in written
    assert f"| {LIMIT} |" in written


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (2.345, "2.3"), (99.96, "100.0"), (12345.6, "12,346")])
def test_numbers_are_short(value: float | None, shown: str) -> None:
    assert number(value) == shown
