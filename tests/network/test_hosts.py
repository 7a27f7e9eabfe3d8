"""The hosts themselves: what the other tests rely on."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from support.namespaces import WAIT, Host, missing_for_hosts, require

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]

SOCKET = "import json, socket; s = socket.socket(socket.AF_INET{}); "
LISTEN = SOCKET + "s.bind(('{}', 4001)); s.listen(); print(json.dumps('up'), flush=True); s.accept()[0].send(b'here')"
DIAL = SOCKET + "s.connect(('{}', 4001)); print(json.dumps(s.recv(9).decode()))"

HOLD = """
import sys
from support.namespaces import cable
with cable() as (one, other), other.process("cat") as cat:
    print(one.pid, other.pid, cat.process.pid, flush=True)
    sys.stdin.read()
"""


def test_each_reaches_the_other(pair: tuple[Host, Host]) -> None:
    one, other = pair
    for family, address in (("", other.ip4), ("6", other.ip6)):
        with other.python("-c", LISTEN.format(family, address)) as listener:
            assert listener.line() == "up"
            with one.python("-c", DIAL.format(family, address)) as dialer:
                assert dialer.line() == "here"


def test_nothing_is_left_of_a_test_that_is_killed() -> None:
    require(missing_for_hosts())
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        processes = [os.pidfd_open(int(pid)) for pid in killed.stdout.readline().split()]
        assert len(processes) == 3
        killed.kill()
    for process in processes:
        ended, _, _ = select.select([process], [], [], WAIT)
        os.close(process)
        assert ended
