"""Home networks behind NAT, and the public network between them, of network namespaces.

The public network has addresses that count as public. Routers drop what nobody at home has asked for without an answer,
as home routers do: see RFC 5382 for what the kinds of NAT are.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final, NamedTuple

from .namespaces import INTERFACE, Host, hosts, missing_for_hosts

__all__ = ["Home", "Internet", "Nat", "internet", "missing_for_nat"]

OUTSIDE: Final = "net1"
"""The interface of a router towards the public network."""

RULES: Final = """
table ip nat {{
    chain out {{
        type nat hook postrouting priority srcnat
        oifname {outside} {masquerade}
    }}
}}
table ip filter {{
    chain to_us {{
        type filter hook input priority filter; policy drop
        iifname != {outside} accept
        ct state established,related accept
    }}
    chain through_us {{
        type filter hook forward priority filter; policy drop
        iifname != {outside} accept
        ct state established,related accept
        ct status dnat accept
    }}
}}
"""
"""Where connections from outside lead to may be added: such a one passes."""


class Nat(enum.Enum):
    """Which port of the router a connection from inside gets, as nft says it (RFC 5382, section 4.1)."""

    ENDPOINT_INDEPENDENT = "masquerade"
    """The port that it comes from, whatever the destination."""
    SYMMETRIC = "masquerade fully-random"
    """Another one for each connection."""


class Home(NamedTuple):
    """A network of one host behind a router, which is the first one's default route."""

    host: Host
    router: Host
    """Its ``ip4`` is the public one; the host knows it at ``gateway``."""
    gateway: str


class Internet(NamedTuple):
    """A public network."""

    public: tuple[Host, ...]
    """Hosts on it."""
    homes: tuple[Home, ...]
    """Networks behind routers on it."""


@contextlib.contextmanager
def internet(public: int, *nats: Nat) -> Iterator[Internet]:
    """A public network with so many hosts on it, and a home behind each NAT. It has IPv4 alone."""
    with hosts(1 + public + 2 * len(nats)) as (switch, *others):
        servers, routers, inside = others[:public], others[public : public + len(nats)], others[public + len(nats) :]
        switch.ip("link add bridge type bridge", "link set bridge up")
        for number, host in enumerate((*servers, *routers), 1):
            host.ip4 = f"11.0.0.{number}"
            interface = INTERFACE if host in servers else OUTSIDE
            switch.ip(
                f"link add port{number} type veth peer name {interface} netns {host.pid}",
                f"link set port{number} master bridge up",
            )
            host.ip(f"address add {host.ip4}/24 dev {interface}", f"link set {interface} up")
        homes = [Home(*pair, f"192.168.{n}.1") for n, pair in enumerate(zip(inside, routers, strict=True), 1)]
        for number, (home, nat) in enumerate(zip(homes, nats, strict=True), 1):
            _join(home, f"192.168.{number}.2", nat)
        yield Internet(tuple(servers), tuple(homes))


def _join(home: Home, ip4: str, nat: Nat) -> None:
    host, router, gateway = home
    host.ip4 = ip4
    router.ip(
        f"link add {INTERFACE} type veth peer name {INTERFACE} netns {host.pid}",
        f"address add {gateway}/24 dev {INTERFACE}",
        f"link set {INTERFACE} up",
    )
    host.ip(f"address add {ip4}/24 dev {INTERFACE}", f"link set {INTERFACE} up", f"route add default via {gateway}")
    router.run("nft", "-f", "-", text=RULES.format(outside=OUTSIDE, masquerade=nat.value))
    router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


@functools.cache
def missing_for_nat() -> str | None:
    """Why this machine has no networks with NAT; None if it has."""
    if (reason := missing_for_hosts()) is not None:
        return reason
    if shutil.which("nft") is None:
        return "nft is missing, which nftables brings"
    try:
        with internet(0, *Nat):
            return None
    except (AssertionError, subprocess.CalledProcessError) as error:
        return f"this system has no NAT in network namespaces: {error}"
