"""The processes that ``support/commands.py`` forks are like those that start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.namespaces import missing_for_hosts, require

from stronghold_p2p.identity import Keypair

from .conftest import WAIT, process

pytestmark = pytest.mark.slow

LISTEN = ("listen", "--allow-all", "--json")

TESTS = Path(__file__).parents[1]

LEFT_BEHIND = f"""
import subprocess, sys
sys.path.append({str(TESTS)!r})
from support.commands import CommandProcess
listener = CommandProcess(*{LISTEN!r}, stdout=subprocess.PIPE, text=True)
print(listener.stdout.readline(), flush=True)
"""


def test_each_has_its_own_folder_environment_and_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keypair = Keypair.generate()
    keypair.save(tmp_path / "key.pem", passphrase="open sesame")
    monkeypatch.chdir(tmp_path)
    for passphrase, status in ("open sesame", 0), ("wrong", 1):
        monkeypatch.setenv("STRONGHOLD_P2P_PASSPHRASE", passphrase)
        with process("key", "show", "key.pem", "--json") as shown:
            out, _ = shown.communicate(timeout=WAIT)
        assert shown.returncode == status
        assert (json.loads(out).get("peer_id") == str(keypair.peer_id)) is (status == 0)
    with process(*LISTEN) as listener:
        assert os.getsid(listener.pid) == os.getpgid(listener.pid) == listener.pid


def test_its_end_is_told_as_that_of_a_child() -> None:
    with process(*LISTEN) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline()
        assert listener.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            listener.wait(0)
        listener.kill()
        assert listener.wait(WAIT) == listener.poll() == -signal.SIGKILL


def test_it_has_the_descriptors_that_it_was_given_and_no_other() -> None:
    require(missing_for_hosts())  # there, /proc tells of them
    with process(*LISTEN) as one, process(*LISTEN) as other:
        sockets = []
        for listener in one, other:
            assert listener.stdout is not None
            assert listener.stdout.readline()
            links = [os.readlink(path) for path in Path(f"/proc/{listener.pid}/fd").iterdir()]
            sockets.append({link for link in links if link.startswith("socket:")})
        assert not sockets[0] & sockets[1]


def test_it_ends_with_whoever_started_it() -> None:
    require(missing_for_hosts())  # Linux alone does that
    command = [sys.executable, "-W", "ignore", "-c", LEFT_BEHIND]
    # Until the end of stderr, which the listener has, too.
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT)
    assert json.loads(ran.stdout)["event"] == "listening"


STARTED = """
import asyncio, os, signal
from stronghold_p2p.cli.process import listening

async def main():
    async with listening("--allow-all") as address:
        print(address, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_what_a_command_has_started_ends_with_it() -> None:
    # Until the end of stderr, which the listener has, too.
    ran = subprocess.run([sys.executable, "-c", STARTED], check=False, capture_output=True, text=True, timeout=WAIT)
    assert ran.returncode == -signal.SIGKILL
    assert ran.stdout.startswith("/ip4/127.0.0.1/tcp/")
    assert ran.stderr == ""
