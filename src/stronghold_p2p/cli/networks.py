"""Networks on one machine, for what is shown of them: Linux's namespaces, which an ordinary user may make. They end with the
context, and with the processes in them."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from .process import ProcessFailed

__all__ = ["Homes", "homes_behind_routers", "network_of_its_own"]

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net", "--")
ANOTHER = ("unshare", "--net", "--")
"""In the user namespace of the first."""

LOOPBACK_UP = ("sh", "-c", "ip link set lo up && echo up && exec cat")

RELAY: Final = "11.0.1.1"
"""An address that counts as public, which nothing outside is asked for."""

JOINED: Final = """
ip link add to{number} type veth peer name outside netns {router}
ip address add 11.0.{number}.1/24 dev to{number}
ip link set to{number} up
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
"""The public network and a router."""

ROUTER: Final = """
ip address add 11.0.{number}.2/24 dev outside
ip link set outside up
ip route add default via 11.0.{number}.1
ip link add inside type veth peer name outside netns {home}
ip address add 192.168.{number}.1/24 dev inside
ip link set inside up
echo 1 > /proc/sys/net/ipv4/ip_forward
nft -f - <<END
table ip nat {{
    chain out {{ type nat hook postrouting priority srcnat; oifname outside masquerade; }}
}}
table ip filter {{
    chain to_us {{ type filter hook input priority filter; policy drop; ct state established,related accept; }}
    chain through_us {{
        type filter hook forward priority filter; policy drop;
        iifname inside accept; ct state established,related accept;
    }}
}}
END
"""
"""It translates addresses, and lets in what was asked for. One port of a home is one port outside."""

HOME: Final = """
ip address add {ip} dev outside
ip link set outside up
ip route add default via 192.168.{number}.1
"""


class Homes(NamedTuple):
    """Two networks behind routers, and the public one between them; what goes before a command that is to run there."""

    public: Sequence[str]
    homes: tuple[Sequence[str], Sequence[str]]
    relay: str = f"/ip4/{RELAY}/tcp/4001"
    """An address of the public one."""


@contextlib.asynccontextmanager
async def network_of_its_own() -> AsyncIterator[Sequence[str]]:
    """What goes before a command that is to run in a network with a loopback interface alone, for as long as the context.
    Nothing, where the system has no such networks for us."""
    async with _namespace(NAMESPACE) as pid:
        yield _entrance(pid) if pid else ()


@contextlib.asynccontextmanager
async def homes_behind_routers() -> AsyncIterator[Homes]:
    """
    Raises:
        ProcessFailed: the system has no such networks for us.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def made(*command: str) -> int:
            pid = await stack.enter_async_context(_namespace(command))
            if not pid:
                raise ProcessFailed("this system has no network namespaces for us (Linux has, unless it forbids them)")
            return pid

        public = await made(*NAMESPACE)
        homes = []
        for number in 1, 2:
            router, home = [await made(*_entrance(public), *ANOTHER) for _ in range(2)]
            await _configure(public, JOINED.format(number=number, router=router))
            await _configure(router, ROUTER.format(number=number, home=home))
            await _configure(home, HOME.format(number=number, ip=f"192.168.{number}.2/24"))
            homes.append(_entrance(home))
        yield Homes(_entrance(public), (homes[0], homes[1]))


@contextlib.asynccontextmanager
async def _namespace(command: Sequence[str]) -> AsyncIterator[int]:
    """A process in a new network; 0 if there is none."""
    try:
        holder = await asyncio.create_subprocess_exec(
            *command, *LOOPBACK_UP, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
        )
    except OSError:
        yield 0
        return
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        yield holder.pid if await holder.stdout.readline() else 0
    finally:
        holder.stdin.close()
        await holder.wait()


def _entrance(pid: int) -> Sequence[str]:
    return ("nsenter", "--preserve-credentials", "--user", "--net", "--target", str(pid), "--")


async def _configure(pid: int, script: str) -> None:
    """Raises ProcessFailed."""
    shell = await asyncio.create_subprocess_exec(
        *_entrance(pid), "sh", "-e", stdin=PIPE, stdout=DEVNULL, stderr=PIPE, start_new_session=True
    )
    _, complaints = await shell.communicate(script.encode())
    if shell.returncode:
        reason = complaints.decode(errors="replace").strip() or f"status {shell.returncode}"
        raise ProcessFailed(f"this system has no routers for us: {reason}")
