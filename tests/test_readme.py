"""The README is true: each of its blocks runs as it stands, in order, and prints what the README says.

A block of ``text`` is what the block before it prints; ``…`` stands for what differs from run to run. A paragraph before a
block says what a reader does with it: "leave it running" makes it a process of the first terminal, "answer `...` in the
first" is typed there. Everything else is typed into the second terminal.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.compiled import STRICTLY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WAIT = 60
"""Seconds after which a block has failed; none waits for them."""
PORT = "4001"
"""The README's; another program may have it, so the test takes a free one."""


@dataclass(frozen=True)
class Block:
    line: int
    before: str
    """The paragraph before it."""
    language: str
    code: str
    prints: str | None
    """What the README says that it prints."""

    @property
    def installs(self) -> bool:
        return self.language == "sh" and re.search(r"^(make|pip|python) ", self.code, re.MULTILINE) is not None

    @property
    def is_left_running(self) -> bool:
        return re.search(r"leave (it|this one) running", self.before, re.IGNORECASE) is not None


def read_blocks() -> Iterator[Block]:
    found = list(re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block[1] == "text":
            continue
        before = README[: block.start()].rstrip().rpartition("\n\n")[2]
        yield Block(
            line=README.count("\n", 0, block.start()) + 1,
            before=" ".join(before.split()),
            language=block[1],
            code=block[2],
            prints=after[2] if after is not None and after[1] == "text" else None,
        )


BLOCKS = list(read_blocks())


class Terminals:
    """Two terminals in a folder: one for what is left running, one for everything else."""

    def __init__(self, folder: Path) -> None:
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        command = bin_folder / "stronghold-p2p"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stronghold_p2p "$@"\n')
        command.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = str(server.getsockname()[1])
        self._folder = folder
        self._environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
        self._running: subprocess.Popen[str] | None = None
        self._shell = self._start("sh")

    def close(self) -> None:
        self._interrupt()
        _, err = self._shell.communicate(timeout=WAIT)
        assert err == ""

    def leave_running(self, code: str) -> None:
        """Types ``code`` into the first terminal, after Ctrl-C; returns when it listens."""
        self._interrupt()
        self._running = self._start("sh", "-c", self._with_free_port(code))
        self._read_first("listening on")

    def answer(self, word: str) -> None:
        """Answers a question in the first terminal."""
        self._read_first("y(es)")
        assert self._running is not None
        assert self._running.stdin is not None
        self._running.stdin.write(f"{word}\n")
        self._running.stdin.flush()

    def type(self, code: str) -> None:
        """Types ``code`` into the second terminal."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"set -e\n{self._with_free_port(code)}\necho {END}\n")
        self._shell.stdin.flush()

    def printed(self) -> str:
        """What the second terminal has printed, until all that was typed has run."""
        assert self._shell.stdout is not None
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.strip() == END:
                return "".join(lines)
            lines.append(line)
        pytest.fail(f"a command has failed: {self._shell.communicate(timeout=WAIT)[1]}")

    def run_python(self, code: str) -> str:
        command = [sys.executable, *STRICTLY, "-c", code]
        ran = subprocess.run(
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=WAIT, check=False
        )
        # asyncio's debug mode tells of callbacks that took long: on a busy machine any may.
        assert [line for line in ran.stderr.splitlines() if not line.startswith("Executing <")] == []
        assert ran.returncode == 0
        return ran.stdout

    def _start(self, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )

    def _interrupt(self) -> None:
        if self._running is not None:
            os.killpg(self._running.pid, signal.SIGINT)
            _, err = self._running.communicate(timeout=WAIT)
            assert err == ""

    def _read_first(self, what: str) -> None:
        assert self._running is not None
        assert self._running.stdout is not None
        for line in self._running.stdout:
            if what in line:
                return
        pytest.fail(f"ended without {what!r}: {self._running.communicate(timeout=WAIT)[1]}")

    def _with_free_port(self, code: str) -> str:
        return code.replace(PORT, self._port)


END = "--- all of it has run"


def assert_prints(block: Block, printed: str) -> None:
    """The README's ``text`` after a block, line by line."""
    if block.prints is None:
        return
    expected = [".+".join(map(re.escape, line.split("…"))) for line in block.prints.splitlines()]
    lines = printed.splitlines()
    assert len(lines) == len(expected), printed
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


@pytest.mark.slow
def test_every_block_runs_in_order(tmp_path: Path) -> None:
    terminals = Terminals(tmp_path)
    try:
        for block in BLOCKS:
            if block.installs:
                continue
            if block.language == "python":
                assert_prints(block, terminals.run_python(block.code))
            elif block.is_left_running:
                terminals.leave_running(block.code)
            else:
                terminals.type(block.code)
                if answer := re.search(r"answer `(\w+)` \([^)]*\) in the first", block.before):
                    terminals.answer(answer[1])
                assert_prints(block, terminals.printed())
    finally:
        terminals.close()


def test_the_readme_has_what_a_reader_needs() -> None:
    assert {block.language for block in BLOCKS} == {"python", "sh"}
    first, *others = (block for block in BLOCKS if block.installs)
    assert [line.partition("#")[0].strip() for line in first.code.splitlines()] == ["make demo", "make test"]
    assert [block for block in others if block.code.startswith("pip install .")]
    for name in ("Config", "peer.connections", "peer.events()", "--debug", "--policy"):
        assert name in README


def test_what_the_readme_installs_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", "".join(re.findall(r"`[^`]+`|^make .*", README, re.MULTILINE))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for wanted in re.findall(r"\[([a-z,]+)\]['\"]", README):
        assert set(wanted.split(",")) <= extras.keys()


def test_what_the_readme_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
