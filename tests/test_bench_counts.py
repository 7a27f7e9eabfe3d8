from __future__ import annotations

from bench.counts import TAKES_TURNS, compare


def test_what_grows_beyond_the_tolerance_is_told_and_what_shrinks() -> None:
    recorded = {"echo": {"calls": 100.0, "system calls": 4.0, "callbacks": 2.0}}
    grown, shrunk = compare(recorded, {"echo": {"calls": 106.0, "system calls": 4.1, "callbacks": 1.5}})
    assert grown == ["echo: calls: 106 a request, recorded were 100"]
    assert shrunk == ["echo: callbacks: 1.5 a request, recorded were 2"]


def test_what_is_no_longer_counted_has_shrunk() -> None:
    assert compare({"echo": {"calls": 1.0}}, {}) == ([], ["echo: calls: 0 a request, recorded were 1"])


def test_where_peers_take_turns_reads_may_differ_and_calls_may_not() -> None:
    recorded = {TAKES_TURNS: {"calls of Python": 100.0, "system calls": 1.0}}
    grown, shrunk = compare(recorded, {TAKES_TURNS: {"calls of Python": 106.0, "system calls": 1.2}})
    assert grown == [f"{TAKES_TURNS}: calls of Python: 106 a request, recorded were 100"]
    assert shrunk == []
