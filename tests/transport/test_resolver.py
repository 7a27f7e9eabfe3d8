"""Names in addresses: what they stand for, and what becomes of those that stand for nothing."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from stronghold_p2p import Keypair, Multiaddr
from stronghold_p2p.transport.lookups import MAX_LOOKUPS_PER_HOLDER
from stronghold_p2p.transport.resolver import MAX_ADDRESSES, SystemResolver, interleave, is_name, names_host

IP4, IP6 = socket.AF_INET, socket.AF_INET6

PEER = Keypair.generate().peer_id


class Names:
    """Stands in for the system's resolver. Names without an answer are unknown."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.answers: dict[str, list[str] | Exception] = {}

    def getaddrinfo(self, host: str, port: None, *, family: int, type: int) -> list[Any]:
        self.asked.append((host, family))
        answer = self.answers.get(host, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        if isinstance(answer, Exception):
            raise answer
        return [self._entry(*ip.split("%")) for ip in answer]

    @staticmethod
    def _entry(ip: str, scope: str = "0") -> tuple[Any, ...]:
        where = (ip, 0, 0, int(scope)) if ":" in ip else (ip, 0)
        return (IP6 if ":" in ip else IP4, socket.SOCK_STREAM, 6, "", where)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


async def resolve(text: str) -> list[str]:
    found = await SystemResolver().resolve(Multiaddr.parse(text), PEER, told=False)
    assert found.ttl is None
    return [str(address) for address in found.addresses]


@pytest.mark.parametrize(("kind", "family"), [("dns", socket.AF_UNSPEC), ("dns4", IP4), ("dns6", IP6)])
async def test_families(names: Names, kind: str, family: int) -> None:
    names.answers["host"] = ["10.0.0.1", "fd00::1"]
    assert await resolve(f"/{kind}/host/tcp/1") == ["/ip6/fd00::1/tcp/1", "/ip4/10.0.0.1/tcp/1"]
    assert names.asked == [("host", family)]


async def test_families_by_turns_in_the_order_of_the_system(names: Names) -> None:
    names.answers["host"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "10.0.0.1"]
    ips = [address.split("/")[2] for address in await resolve("/dns/host/tcp/1")]
    assert ips == ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "10.0.0.3"]


async def test_the_rest_of_the_address_stays(names: Names) -> None:
    names.answers["host"] = ["10.0.0.1"]
    assert await resolve("/dns4/host/tcp/443/tls/sni/host/ws") == ["/ip4/10.0.0.1/tcp/443/tls/sni/host/ws"]


async def test_a_name_has_no_more_addresses_than_are_taken(names: Names) -> None:
    names.answers["host"] = [*(f"10.0.0.{number}" for number in range(100)), "fd00::1"]
    found = await resolve("/dns/host/tcp/1")
    assert len(found) == MAX_ADDRESSES
    assert found[0] == "/ip6/fd00::1/tcp/1"


async def test_an_address_with_a_scope_is_none(names: Names) -> None:
    names.answers["host"] = ["fe80::1%2", "10.0.0.1"]
    assert await resolve("/dns/host/tcp/1") == ["/ip4/10.0.0.1/tcp/1"]
    names.answers["host"] = ["fe80::1%2"]
    with pytest.raises(OSError, match="no IP address"):
        await resolve("/dns/host/tcp/1")


async def test_an_unknown_name(names: Names) -> None:
    with pytest.raises(OSError, match=r"^the name cannot be resolved: name or service not known$"):
        await resolve("/dns/host/tcp/1")


@pytest.mark.parametrize("error", [socket.EAI_NODATA, socket.EAI_ADDRFAMILY])
@pytest.mark.parametrize(("kind", "family"), [("dns", "IP"), ("dns4", "IPv4"), ("dns6", "IPv6")])
async def test_a_name_without_an_address_of_the_family(names: Names, kind: str, family: str, error: int) -> None:
    names.answers["host"] = socket.gaierror(error, "what the system says")
    with pytest.raises(OSError, match=rf"^the name has no {family} address$"):
        await resolve(f"/{kind}/host/tcp/1")


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300,
        ".".join(["label"] * 60),
        "x" * 64 + ".invalid",
        "a..invalid",
        ".invalid",
        ".",
        "\N{PILE OF POO}" * 99,
        "x" * 100_000,
    ],
)
async def test_what_is_no_name(names: Names, name: str) -> None:
    with pytest.raises(OSError, match=r"^not a host name: at most 253 characters"):
        await resolve(f"/dns4/{name}/tcp/1")
    assert not names.asked


async def test_the_longest_name(names: Names) -> None:
    name = ".".join(["x" * 63] * 3 + ["x" * 61])
    assert len(name) == 253
    names.answers |= {name: ["10.0.0.1"], f"{name}.": ["10.0.0.1"]}
    assert await resolve(f"/dns4/{name}/tcp/1") == await resolve(f"/dns4/{name}./tcp/1") == ["/ip4/10.0.0.1/tcp/1"]


async def test_a_name_in_another_script_is_asked_for_as_dns_writes_it(names: Names) -> None:
    names.answers["xn--bcher-kva.example"] = ["10.0.0.1"]
    assert await resolve("/dns4/bücher.example/tcp/1") == ["/ip4/10.0.0.1/tcp/1"]


async def test_the_system_resolves() -> None:
    assert await resolve("/dns4/localhost/tcp/1") == ["/ip4/127.0.0.1/tcp/1"]


async def test_numbers_as_names() -> None:
    assert await resolve("/dns/127.0.0.1/tcp/1") == await resolve("/dns4/127.1/tcp/1") == ["/ip4/127.0.0.1/tcp/1"]
    assert await resolve("/dns6/::1/tcp/1") == ["/ip6/::1/tcp/1"]
    with pytest.raises(OSError, match="no IPv4 address"):
        await resolve("/dns4/::1/tcp/1")


async def test_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = SystemResolver()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(2 * MAX_LOOKUPS_PER_HOLDER):  # none keeps a place
            with pytest.raises(OSError, match="no thread"):
                await resolver.resolve(Multiaddr.parse("/dns4/localhost/tcp/1"), PEER, told=False)
    assert await resolver.resolve(Multiaddr.parse("/dns4/127.0.0.1/tcp/1"), PEER, told=False)


def test_names() -> None:
    host, ip, records = map(Multiaddr.parse, ("/dns/host/tcp/1", "/ip4/10.0.0.1/tcp/1", "/dnsaddr/host"))
    assert list(map(is_name, (host, ip, records))) == [True, False, True]
    assert list(map(names_host, (host, ip, records))) == [True, False, False]


def test_interleaving() -> None:
    assert interleave("abc", "1") == ["a", "1", "b", "c"]
    assert interleave("", "12") == ["1", "2"]
