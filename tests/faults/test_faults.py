"""Connections that are cut, half-closed, corrupted, stalled, delayed and throttled at each byte of a handshake and a request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("route", ["tcp", "websocket", "circuit", "to a relay"])
def test_a_request_ends_once_in_time_and_leaves_nothing(route: str) -> None:
    """Here each fault meets some bytes; ``make faults`` has each byte meet each."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests"), *sys.path))
    ran = subprocess.run(
        [sys.executable, "-m", "faults", route, "--stride", "5"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for outcome in ("cut: ConnectionLost", "half-close: DialError", "corrupt: answered", "stall: RequestTimeout"):
        assert outcome in ran.stdout
