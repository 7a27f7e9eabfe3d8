"""Real interfaces that come, change and go, in a network namespace that each test makes itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from textwrap import dedent

import pytest

pytestmark = pytest.mark.slow

PRELUDE = """
import asyncio, subprocess
from stronghold_p2p import *

async def ip(*commands):
    process = await asyncio.create_subprocess_exec("ip", "-batch", "-", stdin=subprocess.PIPE)
    await process.communicate("".join(f"{command}\\n" for command in commands).encode())
    assert process.returncode == 0

async def next_of(events, kind):
    async for event in events:
        if isinstance(event, kind):
            return event

async def changed(events):
    event = await next_of(events, AddressesChanged)
    return sorted(str(one.without_peer()) for one in event.addresses)

async def add_cable():
    # No duplicate address detection: it takes a second.
    open("/proc/sys/net/ipv6/conf/default/accept_dad", "w").write("0")
    await ip(
        "link add one type veth peer name other",
        "address add 10.16.0.1/24 dev one",
        "address add fd16::1/64 dev one",
        "link set other up",
        "link set one up",
    )
"""


def run_in_namespace(script: str) -> None:
    """Runs ``script``, the body of a coroutine, where no interface is up."""
    for tool in "unshare", "ip":
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing")
    body = f"{PRELUDE}\nasync def main():\n{dedent(script).replace(chr(10), chr(10) + '    ')}\nasyncio.run(main())\n"
    unshared = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", body]
    done = subprocess.run(unshared, check=False, capture_output=True, text=True, timeout=30)
    if done.stderr.startswith("unshare"):
        pytest.skip(f"this system forbids network namespaces: {done.stderr}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wildcard_follows_the_interfaces() -> None:
    run_in_namespace("""
        async with StrongholdP2p() as peer:
            address = await peer.listen("/ip4/0.0.0.0/tcp/0")
            (listener,) = peer.listeners
            assert (address, listener.addresses) == (listener.address, ()), listener
            port = address.components[1][1]
            events = peer.events()
            await ip("link set lo up")
            assert await changed(events) == [f"/ip4/127.0.0.1/tcp/{port}"]
            await add_cable()
            assert await changed(events) == [f"/ip4/10.16.0.1/tcp/{port}", f"/ip4/127.0.0.1/tcp/{port}"]
            assert len(peer.listeners[0].addresses) == 2
            await ip("link set other down")  # the cable is unplugged
            assert await changed(events) == [f"/ip4/127.0.0.1/tcp/{port}"]
            await ip("link set other up")
            await changed(events)
            await ip("address delete 10.16.0.1/24 dev one", "address add 10.16.0.2/24 dev one")
            assert await changed(events) == [f"/ip4/10.16.0.2/tcp/{port}", f"/ip4/127.0.0.1/tcp/{port}"]
    """)


def test_a_connection_ends_with_its_address() -> None:
    run_in_namespace("""
        await ip("link set lo up")
        await add_cable()
        async with StrongholdP2p() as alice, StrongholdP2p() as bob:
            events = alice.events()
            for given, address, prefix in ("/ip4/10.16.0.1", "10.16.0.1", 24), ("/ip6/fd16::1", "fd16::1", 64):
                await alice.connect(await bob.listen(f"{given}/tcp/0/ws"))
                await ip(f"address delete {address}/{prefix} dev one")
                closed = await next_of(events, ConnectionClosed)
                assert type(closed.error) is ConnectionLost, closed
                assert str(closed.error) == f"connection lost: the local address {address} is gone"
    """)


def test_a_listener_survives_the_return_of_its_address() -> None:
    run_in_namespace("""
        await ip("link set lo up")
        await add_cable()
        async with StrongholdP2p() as alice, StrongholdP2p() as bob:
            for given, address in ("/ip4/10.16.0.1", "10.16.0.1/24"), ("/ip6/fd16::1", "fd16::1/64"):
                events = bob.events()
                bound = await bob.listen(f"{given}/tcp/0")
                await ip(f"address delete {address} dev one")
                assert await changed(events) == []
                await ip(f"address add {address} dev one")
                assert await changed(events) == [str(bound.without_peer())]
                await alice.connect(bound)
                await alice.disconnect(bob.peer_id)
                await bob.stop_listening()
    """)


def test_each_remote_is_told_what_it_can_reach() -> None:
    run_in_namespace("""
        await ip("link set lo up")
        await add_cable()
        await ip("address add 1.2.3.4/24 dev one")
        async with StrongholdP2p() as bob:
            port = (await bob.listen("/ip4/0.0.0.0/tcp/0")).components[1][1]
            told = {}
            for by in "1.2.3.4", "10.16.0.1", "127.0.0.1":
                async with StrongholdP2p() as alice:
                    events = alice.events()
                    await alice.connect(f"/ip4/{by}/tcp/{port}/p2p/{bob.peer_id}")
                    identified = await next_of(events, PeerIdentified)
                    told[by] = [address.components[0][1] for address in identified.listen_addresses]
            assert told == {
                "1.2.3.4": ["1.2.3.4"],
                "10.16.0.1": ["10.16.0.1", "1.2.3.4"],
                "127.0.0.1": ["127.0.0.1", "10.16.0.1", "1.2.3.4"],
            }, told
    """)


def test_an_address_at_which_remotes_of_four_networks_have_reached_us_is_told() -> None:
    run_in_namespace("""
        await ip("link set lo up")
        await add_cable()
        async with StrongholdP2p() as bob:
            port = (await bob.listen("/ip4/0.0.0.0/tcp/0")).components[1][1]
            events, changes = bob.events(), bob.events()
            for network in 1, 2, 3, 4:
                assert bob.observed_addresses == ()
                # We take 9.9.9.9 without having it, as if a router had forwarded it to us.
                await ip(
                    f"address add 1.2.{network}.1/24 dev one",
                    f"route replace local 9.9.9.9 dev lo src 1.2.{network}.1",
                )
                async with StrongholdP2p() as alice:
                    await alice.connect(f"/ip4/9.9.9.9/tcp/{port}/p2p/{bob.peer_id}")
                    await next_of(events, PeerIdentified)
            observed = Multiaddr.parse(f"/ip4/9.9.9.9/tcp/{port}")
            assert bob.observed_addresses == (observed,)
            while (await next_of(changes, AddressesChanged)).new != (observed.with_peer(bob.peer_id),):
                pass
    """)


def test_what_was_lost_of_many_changes_is_looked_for() -> None:
    run_in_namespace("""
        import socket
        from stronghold_p2p.transport import netlink
        from stronghold_p2p.transport.interfaces import InterfaceWatch

        def small():
            made = netlink.monitor()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            return made

        watch = InterfaceWatch(monitor=small)
        changed = asyncio.Event()
        watch.changed = lambda before: changed.set()
        watch.need("this")
        commands = ["link set lo up"]
        for number in range(200):
            commands.append(f"address add 10.16.0.{number}/32 dev lo")
        subprocess.run(["ip", "-batch", "-"], input="\\n".join(commands).encode(), check=True)  # the loop stands still
        await changed.wait()
        assert len(watch.addresses) == 202, watch.addresses
        watch.close()
    """)
