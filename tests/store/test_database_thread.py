from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.state import opened

from stronghold_p2p.errors import ClosedError, StateError
from stronghold_p2p.store.database import Database
from stronghold_p2p.store.database_thread import DatabaseThread
from stronghold_p2p.store.firewall_tables import FirewallTables

from .conftest import ALICE, BOB


def ban(database: Database, *, number: int) -> int:
    FirewallTables(database).set_banned((ALICE, BOB)[number % 2], number < 2)
    return number


async def test_jobs_are_done_in_the_order_of_the_calls_and_settled_on_the_loop(path: Path) -> None:
    thread = DatabaseThread(path)
    thread.open()
    settled: list[tuple[int, Any]] = []
    for number in range(4):
        job = thread.submit(partial(ban, number=number))
        job.add_done_callback(lambda done: settled.append((threading.get_ident(), done.result())))
    await thread.close()
    assert settled == [(threading.get_ident(), number) for number in range(4)]
    with opened(path) as tables:
        assert not tables.read().banned


async def test_an_error_is_the_jobs_alone(path: Path) -> None:
    thread = DatabaseThread(path)
    thread.open()
    errors: list[Any] = []
    thread.submit(lambda _: 1 / 0).add_done_callback(lambda done: errors.append(done.exception()))
    assert await thread.submit(partial(ban, number=0)) == 0
    assert [type(error) for error in errors] == [ZeroDivisionError]
    await thread.close()


async def test_a_file_that_cannot_be_opened_is_the_error_of_each_job(tmp_path: Path) -> None:
    thread = DatabaseThread(tmp_path / "folder" / "state.db")
    thread.open()
    errors: list[Any] = []
    for _ in range(2):
        thread.submit(lambda database: None).add_done_callback(lambda done: errors.append(done.exception()))
    await thread.close()
    assert [type(error) for error in errors] == [StateError, StateError]


async def test_only_an_open_one_takes_jobs(path: Path) -> None:
    thread = DatabaseThread(path)
    for _ in "before", "after":
        with pytest.raises(ClosedError):
            thread.submit(lambda database: None)
        await thread.close()
        thread.open()
        await thread.close()
