"""A process that is out of descriptors, or whose disk is full: what cannot be done says so, and the rest goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.namespaces import missing_for_hosts, require

pytestmark = pytest.mark.slow

WAIT = 60.0
"""Seconds after which a process has failed; none waits for them."""

WITHOUT_DESCRIPTORS = """
import asyncio, os, resource, sys
from stronghold_p2p import FirewallRules, Keypair, StrongholdError, StrongholdP2p

folder, spare = sys.argv[1], int(sys.argv[2])
somebody = Keypair.generate().peer_id

async def started(**options):
    async with StrongholdP2p(**options):
        pass

async def main():
    async with StrongholdP2p(state=f"{folder}/state.db", firewall=FirewallRules.allow_all()) as bob, StrongholdP2p() as alice:
        bob.on_request(lambda request: request.body)
        address = await bob.listen()
        assert await alice.send_request(address, 1) == 1
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 40, free + 40))
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        for _ in range(spare):
            os.close(held.pop())
        for act in (
            lambda: alice.send_request(address, 2),
            lambda: alice.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{somebody}"),
            lambda: alice.connect(f"/ip4/127.0.0.1/tcp/1/ws/p2p/{somebody}"),
            lambda: alice.connect(f"/dns4/localhost/tcp/1/tls/ws/p2p/{somebody}"),
            lambda: bob.listen(),
            lambda: bob.listen("/ip4/0.0.0.0/tcp/0"),
            lambda: bob.listen("/ip4/127.0.0.1/tcp/0/ws"),
            lambda: bob.listen("/dns4/localhost/tcp/0"),
            lambda: bob.ban_peer(somebody),
            lambda: started(),
            lambda: started(state=f"{folder}/other.db"),
            lambda: started(policy=f"{folder}/policy.toml"),
        ):
            try:
                await act()
            except StrongholdError as error:
                print(type(error).__name__)
            else:
                print("done")
        for descriptor in held:
            os.close(descriptor)
        assert await alice.send_request(address, 3) == 3
        await bob.ban_peer(Keypair.generate().peer_id)
        await bob.listen()

asyncio.run(main())
"""


@pytest.mark.parametrize("spare", range(4))
def test_what_needs_a_descriptor_fails_with_an_error_of_ours(tmp_path: Path, spare: int) -> None:
    """And what has all that it needs goes on; when there are some again, so does the rest."""
    tmp_path.joinpath("policy.toml").write_text("")
    command = [sys.executable, "-W", "always", "-c", WITHOUT_DESCRIPTORS, str(tmp_path), str(spare)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    outcomes = ran.stdout.split()
    assert len(outcomes) == 12
    assert outcomes[0] == "done"
    if not spare:
        assert outcomes[1:8] == 3 * ["DialError"] + 4 * ["ListenError"]


ON_FIRST_USE = """
import asyncio, os, resource, sys
from stronghold_p2p import Policy, PolicyError, RelayServer, StrongholdError, StrongholdP2p

async def main():
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    for options in (dict(state="state.db"), dict(port_mapping=True), dict(relay=RelayServer()), dict(mdns=True)):
        try:
            await StrongholdP2p(**options).start()
        except StrongholdError as error:
            print(error)
    try:
        Policy.parse("limits.requests_in_flight = 1")
    except PolicyError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    StrongholdP2p(state="state.db", port_mapping=True, relay=RelayServer(), mdns=True)

asyncio.run(main())
"""


def test_what_is_loaded_on_first_use_fails_with_an_error_of_ours() -> None:
    command = [sys.executable, "-W", "always", "-c", ON_FIRST_USE]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    *parts, policy = ran.stdout.splitlines()
    assert parts == 4 * ["cannot load a part of this library: too many open files"]
    assert policy == "policy <policy>: too many open files"


ON_A_FULL_DISK = """
import asyncio, os, sqlite3, sys
from stronghold_p2p import Keypair, StateError, StateFailed, StrongholdP2p

folder = sys.argv[1]
before, meanwhile, after = (Keypair.generate().peer_id for _ in range(3))

def fill():
    with open(f"{folder}/filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass

async def main():
    async with StrongholdP2p(state=f"{folder}/state.db") as bob:
        events = bob.events()
        await bob.ban_peer(before)
        fill()
        try:
            for _ in range(100):  # what is reserved already may take some
                await bob.ban_peer(meanwhile)
                await bob.unban_peer(meanwhile)
            print("it was stored")
        except StateError as error:
            print(error.reason)
        async for event in events:
            if isinstance(event, StateFailed):
                break
        try:
            await StrongholdP2p(state=f"{folder}/other.db").start()
        except StateError as error:
            print(error.reason)
        assert sorted(os.listdir(folder)) == ["filler", "state.db", "state.db-shm", "state.db-wal"]
        os.unlink(f"{folder}/filler")
        await bob.ban_peer(after)
    with sqlite3.connect(f"{folder}/state.db") as file:
        print(*file.execute("PRAGMA integrity_check").fetchone())
        kept = {row[0] for row in file.execute("SELECT peer FROM bans")}
    file.close()
    print(len(kept))

asyncio.run(main())
"""


def test_a_full_disk_costs_what_could_not_be_stored_and_nothing_else(tmp_path: Path) -> None:
    require(missing_for_hosts())
    mount = 'mount -t tmpfs -o size=256k none "$1" && exec "$2" -W always -c "$3" "$1"'
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    command = [*enter, str(tmp_path), sys.executable, ON_A_FULL_DISK]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    full = "database or disk is full"
    logged = ran.stderr.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [full, full, "ok", "2"]
    assert all(line.endswith(full) for line in logged)
