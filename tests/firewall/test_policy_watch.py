from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stronghold_p2p.errors import PolicyError
from stronghold_p2p.firewall import policy_watch
from stronghold_p2p.firewall.policy import Policy
from stronghold_p2p.firewall.policy_watch import PolicyWatch
from stronghold_p2p.firewall.rules import Rule

ASK = '[default]\ninbound = "ask"\n'
REJECT = '[default]\ninbound = "reject"\n'
BROKEN = '[default]\ninbound = "rejects"\n'


class Watched:
    """A policy file, a watch over it, and what came of it."""

    def __init__(self, path: Path, interval: float = 3600) -> None:
        self.path = path
        self.path.write_text(ASK)
        self.applied: asyncio.Queue[Rule | None] = asyncio.Queue()
        self.failed: asyncio.Queue[PolicyError] = asyncio.Queue()
        self.watch = PolicyWatch(
            path,
            apply=lambda policy: self.applied.put_nowait(policy.rules.inbound),
            failed=self.failed.put_nowait,
            interval=interval,
        )

    async def load(self) -> None:
        await self.watch.load()
        assert self.applied.get_nowait() is Rule.ASK

    def replace(self, text: str) -> None:
        """Puts another file in its place at once, as careful programs do."""
        other = self.path.with_suffix(".new")
        other.write_text(text)
        os.replace(other, self.path)

    async def check(self) -> Rule | None:
        """What one look applies."""
        await self.watch.check()
        return None if self.applied.empty() else self.applied.get_nowait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watch.run())
        try:
            async with asyncio.timeout(30):
                yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def watched(tmp_path: Path) -> Watched:
    watched = Watched(tmp_path / "policy.toml")
    await watched.load()
    return watched


async def test_a_file_that_does_not_change_is_not_read_again(watched: Watched) -> None:
    assert await watched.check() is None
    assert await watched.check() is None


async def test_a_change_is_taken_once_the_file_stands_still(watched: Watched) -> None:
    watched.path.write_text(REJECT)
    assert await watched.check() is None
    assert await watched.check() is Rule.REJECT_ALL
    assert await watched.check() is None


async def test_a_file_that_is_being_written_is_not_taken(watched: Watched) -> None:
    watched.path.write_text("")
    assert await watched.check() is None
    watched.path.write_text("[default]\n")
    assert await watched.check() is None
    watched.path.write_text(REJECT)
    assert await watched.check() is None
    assert await watched.check() is Rule.REJECT_ALL


async def test_a_file_renamed_over_the_old_one(watched: Watched) -> None:
    old = watched.path.stat()
    watched.replace(ASK)
    os.utime(watched.path, ns=(old.st_atime_ns, old.st_mtime_ns))  # neither size nor time of writing tells
    assert await watched.check() is None
    assert await watched.check() is Rule.ASK


async def test_a_file_that_is_touched_is_loaded_again(watched: Watched) -> None:
    os.utime(watched.path, ns=(1, 1))
    assert await watched.check() is None
    assert await watched.check() is Rule.ASK


async def test_a_file_that_is_missing_for_a_moment(watched: Watched) -> None:
    watched.path.rename(watched.path.with_suffix(".old"))
    assert await watched.check() is None
    watched.path.write_text(REJECT)
    assert await watched.check() is None
    assert await watched.check() is Rule.REJECT_ALL


async def test_a_file_that_is_moved_away_and_back_between_two_looks(watched: Watched) -> None:
    away = watched.path.rename(watched.path.with_suffix(".old"))
    assert await watched.check() is None
    away.rename(watched.path)
    assert await watched.check() is None


async def test_a_file_that_stays_missing_is_told_once(watched: Watched) -> None:
    watched.path.unlink()
    assert await watched.check() is None
    with pytest.raises(PolicyError, match="no such file"):
        await watched.check()
    assert await watched.check() is None
    watched.path.write_text(ASK)
    assert await watched.check() is None
    assert await watched.check() is Rule.ASK


async def test_a_file_whose_place_a_pipe_takes(watched: Watched) -> None:
    watched.path.unlink()
    os.mkfifo(watched.path)
    assert await watched.check() is None
    with pytest.raises(PolicyError, match="a pipe"):
        await watched.check()
    assert await watched.check() is None
    async with watched.running():
        watched.watch.reload()
        assert "a pipe" in (await watched.failed.get()).reason
    watched.replace(REJECT)
    assert await watched.check() is None
    assert await watched.check() is Rule.REJECT_ALL


async def test_a_broken_file_is_told_once_for_each_change(watched: Watched) -> None:
    for text in (BROKEN, BROKEN + "# still\n"):
        watched.path.write_text(text)
        assert await watched.check() is None
        with pytest.raises(PolicyError) as raised:
            await watched.check()
        assert (raised.value.line, raised.value.key) == (2, "default.inbound")
        assert await watched.check() is None
    watched.path.write_text(REJECT)
    assert await watched.check() is None
    assert await watched.check() is Rule.REJECT_ALL


async def test_a_file_whose_mode_changes_is_loaded_again(watched: Watched) -> None:
    watched.path.chmod(0o640)  # it may have become readable
    assert await watched.check() is None
    assert await watched.check() is Rule.ASK


@pytest.mark.parametrize("content", [None, BROKEN])
async def test_a_start_without_a_policy(tmp_path: Path, content: str | None) -> None:
    watched = Watched(tmp_path / "policy.toml")
    watched.path.write_text(content) if content else watched.path.unlink()
    with pytest.raises(PolicyError):
        await watched.watch.load()
    assert watched.applied.empty()


async def test_reload_loads_at_once_changed_or_not(watched: Watched) -> None:
    async with watched.running():
        watched.watch.reload()
        assert await watched.applied.get() is Rule.ASK
        watched.path.write_text(REJECT)
        watched.watch.reload()
        assert await watched.applied.get() is Rule.REJECT_ALL


async def test_reload_tells_of_a_broken_file_each_time_and_keeps_the_old_policy(watched: Watched) -> None:
    watched.path.write_text(BROKEN)
    async with watched.running():
        for _ in range(2):
            watched.watch.reload()
            assert (await watched.failed.get()).line == 2
    assert watched.applied.empty()


async def test_changes_are_noticed_by_looking(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "policy.toml", interval=0.001)
    await watched.load()
    async with watched.running():
        watched.replace(REJECT)
        assert await watched.applied.get() is Rule.REJECT_ALL
        watched.replace(BROKEN)
        assert (await watched.failed.get()).line == 2
        watched.replace(ASK)
        assert await watched.applied.get() is Rule.ASK
    assert watched.failed.empty()


async def test_the_file_is_never_touched_on_the_event_loop(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def stamp(path: Path) -> tuple[int, int, int, int]:
        threads.append(threading.current_thread())
        return 0, 0, 0, 0

    def load(path: Path, types: object) -> Policy:
        threads.append(threading.current_thread())
        return Policy()

    monkeypatch.setattr(policy_watch, "_stamp", stamp)
    monkeypatch.setattr(Policy, "load", load)
    await watched.watch.check()
    await watched.watch.check()
    assert len(threads) == 4  # two looks; the second one loads, for which it looks again
    assert threading.current_thread() not in threads
