"""Lines that remotes cause: one a second, and the number of the others."""

from __future__ import annotations

import logging

import pytest
from support.clock import Clock

from stronghold_p2p.logs import INTERVAL, SparingLog


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


def test_one_line_in_an_interval(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = SparingLog(logging.WARNING, "a request from %s failed", clock=clock)
    for moment in range(1000):
        clock.now = moment * INTERVAL / 100
        log.write(moment)
    assert [record.getMessage() for record in caplog.records] == [
        "a request from 0 failed",
        *(f"a request from {number}00 failed (99 more like it were left out)" for number in range(1, 10)),
    ]
    assert {(record.name, record.levelno) for record in caplog.records} == {("stronghold_p2p", logging.WARNING)}


def test_nothing_was_left_out(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = SparingLog(logging.ERROR, "no argument", clock=clock)
    for _ in range(3):
        log.write()
        clock.now += INTERVAL
    assert [record.getMessage() for record in caplog.records] == ["no argument"] * 3


def test_kinds_do_not_hide_each_other(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (SparingLog(logging.WARNING, kind, clock=clock) for kind in ("first", "second"))
    for _ in range(5):
        first.write()
    second.write()
    assert [record.getMessage() for record in caplog.records] == ["first", "second"]


def test_a_traceback(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("of the handler")
    SparingLog(logging.ERROR, "it failed", clock=clock).write(exc_info=error)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
