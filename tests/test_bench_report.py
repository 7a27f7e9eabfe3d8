from __future__ import annotations

from typing import Any

import pytest

from bench import programs, relays
from bench.cases import ALL, CASES, COMPILED, GOALS, LIMIT, NATIVE, OURS, OVER_WEBSOCKET, RIVALS, Goal, Rounds
from bench.report import Result, number, spread, text, verdict
from bench.systems import SYSTEMS, Measured, Took
from bench.usage import Machine, Usage

WORK = "64 bytes, 32 in flight"
NOT_MEASURED = Machine(busy=0.0, stolen=0.0, total=1.0)


def result(
    measured: dict[str, dict[str, list[Measured]]],
    *,
    programmed: programs.Figures | None = None,
    relayed: relays.Figures | None = None,
    scale: dict[str, dict[str, dict[str, Any]]] | None = None,
) -> Result:
    return Result(1, measured, {}, programmed or {}, relayed or {}, scale or {}, NOT_MEASURED)


def took(processor_seconds: float = 0.0, faults: int = 0, stolen: float = 0.0) -> Took:
    """One second of two processors."""
    usage = Usage(processor_seconds, faults)
    return Took(1.0, usage, usage, Machine(busy=1.0, stolen=stolen, total=2.0))


@pytest.mark.parametrize(
    ("goal", "rounds", "ratios"),
    [
        (Goal(WORK, ("a",), 1.5), {OURS: [30.0, 50.0], "a": [20.0, 20.0]}, [1.5, 2.5]),
        (Goal(WORK, ("a", "b"), 1.5), {OURS: [30.0, 30.0], "a": [10.0, 30.0], "b": [20.0, 10.0]}, [1.0, 1.5]),
        (Goal(WORK, ("a", "b"), 1.5), {OURS: [30.0], "a": [10.0]}, [3.0]),
        (Goal(WORK, ("a", "b"), 1.5), {OURS: [30.0, 30.0], "a": [10.0, 10.0], "b": [20.0]}, [1.5, 3.0]),
        (Goal(WORK, ("a",), 1.5), {OURS: [30.0, 10.0], "a": [10.0]}, [3.0]),
        (Goal("connect", ("a", "b"), 1.0), {OURS: [3.0, 3.0], "a": [4.0, 2.0], "b": [6.0, 6.0]}, [1.5, 0.75]),
        (Goal(WORK, (), 0.7), {OURS: [4.0], OVER_WEBSOCKET[OURS]: [3.0]}, [0.75]),
        (Goal(WORK, ("a", "b"), 1.0), {}, []),
        (Goal(WORK, ("a", "b"), 1.0), {OURS: [1.0]}, []),
        (Goal(WORK, ("a", "b"), 1.0), {"a": [1.0], "b": [1.0]}, []),
        (Goal(WORK, (), 1.0), {OURS: [1.0]}, []),
    ],
    ids=[
        "one other",
        "the best other of each round",
        "the others that were measured",
        "the others of the first round alone",
        "no other in the second round",
        "times",
        "over WebSocket",
        "nothing measured",
        "no other measured",
        "ours not measured",
        "not measured over WebSocket",
    ],
)
def test_ratios_hold_ours_against_the_best_other_of_the_same_round_the_worst_first(
    goal: Goal, rounds: Rounds, ratios: list[float]
) -> None:
    assert goal.ratios(OURS, rounds) == ratios


@pytest.mark.parametrize(
    ("case", "reached", "not_reached"), [(WORK, 1.5, 1.49), ("connect", 1.5, 1.51)], ids=["rates", "times"]
)
def test_a_goal_is_a_bound_of_the_ratio(case: str, reached: float, not_reached: float) -> None:
    goal = Goal(case, ("a",), 1.5)
    assert goal.reached(reached, goal.compiled)
    assert not goal.reached(not_reached, goal.compiled)


def test_goals_name_systems_and_cases_that_are_measured() -> None:
    names = {system.name for system in SYSTEMS}
    assert {other for goal in GOALS for other in goal.others} <= {*names, LIMIT}
    assert {goal.case for goal in GOALS} <= {case.name for case in CASES}
    assert {*RIVALS} <= names


@pytest.mark.parametrize(
    ("ratios", "shown"), [([], ""), ([1.5], "1.50"), ([1.5, 1.501], "1.50"), ([1.5, 1.6, 1.75], "1.50 to 1.75")]
)
def test_a_ratio_is_shown_from_the_worst_to_the_best(ratios: list[float], shown: str) -> None:
    assert spread(ratios) == shown


def test_the_worst_round_counts() -> None:
    case = next(case for case in CASES if case.name == WORK)
    measured = {
        WORK: {
            OURS: [Measured({case.figure: rate}, None) for rate in (30.0, 50.0)],
            COMPILED: [Measured({case.figure: rate}, None) for rate in (90.0, 80.0)],
            "ZeroMQ CURVE": [Measured({case.figure: 10.0}, None)] * 2,
        }
    }
    written = text(result(measured))
    assert (
        f"| {WORK} | ZeroMQ CURVE | 3.00 to 5.00 | 8.00 to 9.00 | at least 5, pure 2.2 (stretch 8) | reached, and"
        in written
    )
    assert "| stronghold-p2p | 40.0 |" in written


def test_the_tables_have_every_goal_and_row() -> None:
    names = {*ALL, LIMIT, OURS, COMPILED, *OVER_WEBSOCKET.values()}
    measured = {case.name: {name: [Measured({case.figure: 2.0}, None)] for name in names} for case in CASES}
    row: dict[str, Any] = {
        "name": "an idle stream",
        "value": 3,
        "unit": "KiB",
        "goal": "under 4",
        "reached": True,
        "detail": "",
    }
    compiled = {**row, "value": 5, "reached": False, "detail": "of 64"}
    relayed = {
        work: {OURS: {relay: [1.0, 2.0] for relay in (relays.DIRECT, relays.OUR_RELAY, *relays.OTHERS)}}
        for work in relays.WORKS
    }
    scale = {OURS: {row["name"]: row}, COMPILED: {row["name"]: compiled}}
    written = text(result(measured, relayed=relayed, scale=scale))
    bulk = [case for case in CASES if case.is_bulk]
    assert written.count("reached") == len(GOALS) + len(bulk) + len(relays.GOALS) + 1
    assert "| an idle stream | 3 KiB | 5 KiB (of 64) | under 4 | reached if pure Python |" in written
    assert f"| {LIMIT} |" in written
    assert f"| {WORK} | the best of {NATIVE[0]} and {NATIVE[1]} | 1.00 | 1.00 |" in written
    assert f"| {WORK}, /ws | the same over TCP | 1.00 | 1.00 | at least 0.7 | reached |" in written


def test_the_tables_without_the_compiled_one() -> None:
    measured = {case.name: {name: [Measured({case.figure: 1.0}, None)] for name in (OURS, *ALL)} for case in CASES}
    row: dict[str, Any] = {
        "name": "an idle stream",
        "value": 5,
        "unit": "KiB",
        "goal": "under 4",
        "reached": False,
        "detail": "",
    }
    written = text(result(measured, scale={OURS: {row["name"]: row}}))
    assert "| an idle stream | 5 KiB |  | under 4 | **not reached** |" in written
    assert "| 64 bytes, one at a time | the best of ZeroMQ CURVE, go-libp2p and rust-libp2p | 1.00 |  |" in written


def test_processor_time_is_told_by_process_and_by_work() -> None:
    request, bulk = (next(case for case in CASES if case.name == name) for name in (WORK, "1 MB raw, 4 in flight"))
    measured = {
        request.name: {OURS: [Measured({request.figure: 10_000}, took(0.5))]},
        bulk.name: {OURS: [Measured({bulk.figure: 500}, took(0.75))]},
    }
    assert "| stronghold-p2p | 50.0 + 50.0 | 1,500 + 1,500 |" in text(result(measured))


def test_page_faults_of_a_gigabyte_are_those_of_both_processes_in_the_worst_round() -> None:
    bulk = next(case for case in CASES if case.name == "1 MB raw, 4 in flight")
    figures = {bulk.figure: 500.0}
    measured = {
        bulk.name: {
            OURS: [Measured(figures, took(faults=1_000)), Measured(figures, took(faults=2_000))],
            COMPILED: [Measured(figures, took(faults=1_000))] * 2,
            "go-libp2p": [Measured(figures, took(faults=500))] * 2,
            "rust-libp2p": [Measured(figures, None)] * 2,
        }
    }
    line = f"| {bulk.name} | 8,000 to 4,000 | 4,000 | 2,000 (go-libp2p) | under 5,000 | reached if compiled |"
    assert line in text(result(measured))


def test_what_was_stolen_is_told_with_its_measurement() -> None:
    case = next(case for case in CASES if case.name == WORK)
    rounds = [Measured({case.figure: 1.0}, took(0.25, stolen=stolen)) for stolen in (0.1, 0.4)]
    written = text(result({case.name: {OURS: rounds}}))
    assert f"at most 20.0% ({OURS}, {WORK}, round 2)" in written
    assert "compared with" not in written
    assert f"other processes at most 25.0% ({OURS}, {WORK}, round 1)" in written


def test_the_perf_programs_are_held_against_go_with_itself() -> None:
    def moved(*rates: float) -> list[programs.Moved]:
        return [programs.Moved(rate, Usage(1.5, 100), Usage(2.5, 200)) for rate in rates]

    go = programs.GO
    pairs = {(OURS, OURS): moved(30.0, 40.0), (OURS, go): moved(15.0, 15.0), (go, go): moved(10.0, 20.0)}
    written = text(result({}, programmed={"upload": pairs}))
    assert (
        f"| {OURS} | {OURS} | upload | 35.0 | 2.00 to 3.00 | 1,500 + 2,500 | 100 + 200 | at least 1.5 (stretch 2) | reached |"
        in written
    )
    assert "| the perf program, upload | 300 |  | 300 (go-libp2p) | under 5,000 | reached |" in written
    assert f"| {OURS} | {go} | upload | 15.0 | 0.75 to 1.50 | 1,500 + 2,500 | 100 + 200 |  |  |" in written


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
