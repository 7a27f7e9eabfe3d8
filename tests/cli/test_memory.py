"""What others may see of a command's memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import WAIT, Cli, listening, python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")

DUMPABLE = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
"""PR_GET_DUMPABLE."""

COMMAND = f"""
import sys
from stronghold_p2p.cli import main
try:
    main()
finally:
    {DUMPABLE}
"""


def test_nobody_dumps_or_traces_a_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COMMAND, "--version"], capture_output=True, text=True, check=True, timeout=WAIT
    )
    assert ran.stdout.splitlines()[-1] == "0"


def test_what_a_handler_runs_is_as_it_was(cli: Cli) -> None:
    with listening("--allow-all", "--handler", python(DUMPABLE)) as address:
        assert cli.json("request", address, "null").line == 1
