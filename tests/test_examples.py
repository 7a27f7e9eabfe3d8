"""The examples run as they stand and print what they should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.compiled import STRICTLY

ROOT = Path(__file__).parents[1]

ARGUMENTS = {"approval.py": ["ping", "ask", "yes", "no"]}
PRINTS = {
    "approval.py": (
        "May alice ask you? (yes/no/ping/ask)\n"
        "alice: Ping -> pong\n"
        "alice: Message -> rejected\n"
        "May carol ask you? (yes/no/ping/ask)\n"
        "May carol send you a Ping? (yes/hour/no)\n"
        "carol: Ping -> pong\n"
        "May carol send you a Message? (yes/hour/no)\n"
        "carol: Message -> rejected\n"
    ),
    "echo.py": "{'echo': {'hello': 'bob'}}\n",
    "firewall.py": "hello alice\nbob has nothing for mallory\nalice may no longer send requests to bob\n",
    "streams.py": "END TO END\n",
    "typed.py": "Put(name='answer', value=42) -> 1\nGet(name='answer') -> 42\nCount() -> 1\n",
}


def run(*arguments: str) -> str:
    command = [sys.executable, *STRICTLY, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    # asyncio's debug mode tells of callbacks that took long: on a busy machine any may.
    assert [line for line in finished.stderr.splitlines() if not line.startswith("Executing <")] == []
    return finished.stdout


def test_every_example_is_listed() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(PRINTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTS)
def test_example(name: str) -> None:
    assert run(str(ROOT / "examples" / name), *ARGUMENTS.get(name, [])) == PRINTS[name]
