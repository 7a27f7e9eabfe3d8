"""Connections that are cut, half-closed, corrupted, stalled, delayed and throttled at each byte of a handshake and a request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

LIMIT = 300
"""Seconds until a program is ended that does not end by itself."""


@pytest.mark.parametrize(
    ("route", "stride"), [("tcp", 13), ("websocket", 17), ("tls", 41), ("circuit", 17), ("to a relay", 61)]
)
def test_a_request_ends_once_in_time_and_leaves_nothing(route: str, stride: int) -> None:
    """Here each fault meets some bytes; ``make faults`` has each byte meet each."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests"), *sys.path))
    ran = subprocess.run(
        [sys.executable, "-m", "faults", route, "--stride", str(stride)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for outcome in ("cut: ConnectionLost", "half-close: DialError", "corrupt: answered", "stall: RequestTimeout"):
        assert outcome in ran.stdout
