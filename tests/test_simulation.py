"""Simulated worlds: that one is repeated by its number, wherever things lie in memory, and that a fault is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def simulate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulation", *arguments]
    return subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_a_world_is_repeated_by_its_number() -> None:
    first, second = (simulate("--seed", "1", PYTHONMALLOC=allocator) for allocator in ("pymalloc", "malloc"))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "request 1 " in first.stderr
    assert first.stderr == second.stderr
    assert first.stdout.splitlines()[-1] == second.stdout.splitlines()[-1]  # the digest


def test_a_fault_of_the_library_is_found() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "simulation.mutations", "--seeds", "5", "a handler is called twice"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "was handled 2 times" in found.stdout
