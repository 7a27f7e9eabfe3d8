"""The yardstick runs and tells what it promises; what it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def measure(module: str, *options: str) -> Any:
    command = [sys.executable, "-m", module, "--json", *options]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True).stdout)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_limit_has_three_figures(loop: str) -> None:
    figures = measure("bench.limit", "--seconds", "0.05", "--loop", loop)
    assert figures.pop("loop") == loop
    assert set(figures) == {"requests_per_second", "requests_per_second_one_at_a_time", "bulk_mb_per_second"}
    assert all(figure > 0 for figure in figures.values())
