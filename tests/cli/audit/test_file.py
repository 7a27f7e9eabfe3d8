from __future__ import annotations

import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stronghold_p2p.cli.audit.file import HEAD_EVERY, AuditFailed, AuditFile
from stronghold_p2p.cli.audit.verify import Finding, Verifier
from stronghold_p2p.identity import Keypair

KEYPAIR = Keypair.generate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def file(path: Path) -> Iterator[AuditFile]:
    file = AuditFile(path, KEYPAIR)
    yield file
    file.close()


def append(file: AuditFile, *types: str) -> None:
    file.append(deque({"time": "2026", "event": "decision", "type": name} for name in types))


def records(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def types(path: Path) -> list[str]:
    return [record["type"] for record in records(path) if record["event"] == "decision"]


def findings(*paths: Path) -> list[Finding]:
    found: list[Finding] = []
    verifier = Verifier(found.append, [KEYPAIR.peer_id])
    for path in paths:
        verifier.begin_file(path.name)
        for line in path.read_bytes().splitlines(keepends=True):
            verifier.take(line)
    verifier.end()
    return found


def test_lines_are_numbered_and_signed(path: Path) -> None:
    file = AuditFile(path, KEYPAIR)
    append(file, "Ping", "Read")
    file.sign()
    file.sign()
    assert file.is_signed
    append(file, "Sign")
    file.close()
    assert [(record["seq"], record["event"]) for record in records(path)] == list(
        enumerate(("opened", "decision", "decision", "head", "decision", "head"), 1)
    )
    assert findings(path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_many_lines_are_signed_now_and_then(path: Path, file: AuditFile) -> None:
    append(file, *["Ping"] * HEAD_EVERY)
    heads = [record["seq"] for record in records(path) if record["event"] == "head"]
    assert heads == [HEAD_EVERY + 1]


def test_nothing_is_written_before_there_is_something_to_say(path: Path) -> None:
    AuditFile(path, KEYPAIR).close()
    assert path.read_bytes() == b""


def test_two_peers_cannot_write_one_file(path: Path, file: AuditFile) -> None:
    with pytest.raises(AuditFailed, match="another peer writes it"):
        AuditFile(path, KEYPAIR)


@pytest.mark.parametrize("leave", [os.unlink, lambda path: path.rename(path.with_suffix(".1"))])
def test_a_file_that_is_moved_or_removed_is_made_again(path: Path, leave: Callable[[Path], object]) -> None:
    file = AuditFile(path, KEYPAIR)
    append(file, "1")
    leave(path)
    append(file, "2")
    append(file, "3")
    assert types(path) == ["2", "3"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("")  # shortened in place, as `copytruncate` of logrotate does
    append(file, "4")
    file.close()
    assert types(path) == ["4"]
    assert [found.verdict for found in findings(path)] == ["note"]  # of what was before


def test_a_rotation_goes_on_with_the_chain(path: Path) -> None:
    file = AuditFile(path, KEYPAIR)
    append(file, "1")
    first = path.rename(path.with_suffix(".2"))
    file.reopen()
    assert records(first)[-1]["event"] == "head"
    assert [record["event"] for record in records(path)] == ["opened"]
    append(file, "2")
    file.reopen()  # not moved
    append(file, "3")
    second = path.rename(path.with_suffix(".1"))
    append(file, "4")
    file.close()
    assert [types(one) for one in (first, second, path)] == [["1"], ["2", "3"], ["4"]]
    assert findings(first, second, path) == []
    assert [found.verdict for found in findings(second, path)] == ["note"]
    assert [found.verdict for found in findings(first, path)] == ["problem"]


def test_a_rotation_to_a_file_with_something_in_it(path: Path) -> None:
    file = AuditFile(path, KEYPAIR)
    append(file, "1")
    first = path.rename(path.with_suffix(".1"))
    path.write_text("something")
    append(file, "2")
    file.close()
    assert path.read_text().startswith("something (torn)\n")
    assert [found.verdict for found in findings(first, path)] == ["problem"]


def test_a_rotation_after_a_line_was_torn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AuditFile(path, KEYPAIR)
    append(file, "1")
    write, room = os.write, 100
    full = os.stat(path)

    def write_until_full(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not os.path.samestat(full, os.fstat(descriptor)):
            return write(descriptor, data)
        if not room:
            raise OSError(28, "No space left on device")
        data, room = data[:room], room - len(data[:room])
        return write(descriptor, data)

    monkeypatch.setattr("stronghold_p2p.cli.audit.file.os.write", write_until_full)
    with pytest.raises(OSError, match="No space left"):
        append(file, "2")
    first = path.rename(path.with_suffix(".1"))
    append(file, "3")
    file.close()
    assert not first.read_bytes().endswith(b"\n")
    assert [found.verdict for found in findings(first, path)] == ["note"]
    assert types(path) == ["3"]


def no_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def an_unread_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def another_peer(path: Path) -> None:
    path.unlink()
    AuditFile(path, KEYPAIR)


@pytest.mark.parametrize("change", [no_folder, a_folder, an_unread_pipe, a_circle, another_peer])
def test_a_file_that_cannot_be_made_again(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "folder" / "audit"
    path.parent.mkdir()
    file = AuditFile(path, KEYPAIR)
    change(path)
    waiting: deque[Any] = deque([{"time": "2026", "event": "stop"}])
    with pytest.raises(OSError, match=r"\[Errno \d+\] \w+"):
        file.append(waiting)
    assert len(waiting) == 1
    file.close()


def test_a_pipe_with_a_reader(path: Path) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = AuditFile(path, KEYPAIR)
    append(file, "1")
    append(file, "2")
    file.close()
    lines = os.read(reader, 65_536).splitlines()
    os.close(reader)
    assert [json.loads(line)["event"] for line in lines] == ["opened", "decision", "decision", "head"]


def test_a_pipe_whose_reader_leaves(path: Path) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = AuditFile(path, KEYPAIR)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        append(file, "1")
    file.close()


@pytest.mark.parametrize("path", ["missing/audit", "."])
def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AuditFailed, match=r"audit file .*: [A-Z]"):
        AuditFile(Path(path), KEYPAIR)
