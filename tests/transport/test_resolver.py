"""Names in addresses: what they stand for, and what becomes of those that stand for nothing."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from support.waiting import begun, settled

from stronghold_p2p import Multiaddr
from stronghold_p2p.transport.resolver import MAX_ADDRESSES, MAX_LOOKUPS, SystemResolver, interleave, names_host

IP4, IP6 = socket.AF_INET, socket.AF_INET6


class Names:
    """Stands in for the system's resolver."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int]] = []
        self.answers: dict[str, list[str] | BaseException | asyncio.Future[list[str]]] = {}
        """A name without an answer is looked up for ever."""
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._getaddrinfo)

    async def _getaddrinfo(self, host: str, port: None, *, family: int, type: int) -> list[Any]:
        self.asked.append((host, family))
        answer = self.answers.get(host)
        if answer is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(answer, asyncio.Future):
            answer = await answer
        if isinstance(answer, BaseException):
            raise answer
        return [self._entry(*ip.split("%")) for ip in answer or ()]

    @staticmethod
    def _entry(ip: str, scope: str = "0") -> tuple[Any, ...]:
        where = (ip, 0, 0, int(scope)) if ":" in ip else (ip, 0)
        return (IP6 if ":" in ip else IP4, socket.SOCK_STREAM, 6, "", where)


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def resolve(text: str, resolver: SystemResolver | None = None) -> list[str]:
    return [str(address) for address in await (resolver or SystemResolver()).resolve(Multiaddr.parse(text))]


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
    with pytest.raises(OSError, match="no such address"):
        await resolve("/dns/host/tcp/1")


async def test_an_unknown_name(names: Names) -> None:
    names.answers["host"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(OSError, match=r"^the name cannot be resolved: name or service not known$"):
        await resolve("/dns/host/tcp/1")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 64 + ".invalid", "a..invalid", ".invalid", "\N{PILE OF POO}" * 99])
async def test_what_is_no_name(name: str) -> None:
    with pytest.raises(OSError, match="not a host name"):
        await resolve(f"/dns4/{name}/tcp/1")


async def test_the_system_resolves() -> None:
    assert await resolve("/dns4/localhost/tcp/1") == ["/ip4/127.0.0.1/tcp/1"]


async def test_a_lookup_holds_its_place_until_it_has_ended_though_nobody_waits(names: Names) -> None:
    resolver = SystemResolver()
    hanging = [asyncio.create_task(resolve(f"/dns4/slow{number}/tcp/1", resolver)) for number in range(MAX_LOOKUPS)]
    await settled()
    hanging[0].cancel()
    names.answers["host"] = ["10.0.0.1"]
    waiting = asyncio.create_task(resolve("/dns4/host/tcp/1", resolver))
    leaving = asyncio.create_task(resolve("/dns4/other/tcp/1", resolver))
    await settled()
    leaving.cancel()
    assert [host for host, _ in names.asked] == [f"slow{number}" for number in range(MAX_LOOKUPS)]
    lookups = [task for task in asyncio.all_tasks() if "_getaddrinfo" in repr(task)]
    assert len(lookups) == MAX_LOOKUPS
    for lookup in lookups:
        lookup.cancel()  # stands for the end of its thread
    assert await waiting == ["/ip4/10.0.0.1/tcp/1"]
    await asyncio.gather(*hanging, leaving, return_exceptions=True)


async def test_nobody_hears_of_a_lookup_that_fails_when_nobody_waits(names: Names) -> None:
    answer = names.answers["host"] = asyncio.get_running_loop().create_future()
    looking_up = await begun(resolve("/dns4/host/tcp/1"))
    await settled()
    looking_up.cancel()
    await asyncio.wait([looking_up])
    answer.set_exception(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    await settled()  # the loop has nothing to complain of


async def test_failed_lookups_free_their_places(names: Names) -> None:
    resolver = SystemResolver()
    names.answers["host"] = UnicodeError("label too long")
    for _ in range(2 * MAX_LOOKUPS):
        with pytest.raises(OSError, match="not a host name"):
            await resolve("/dns4/host/tcp/1", resolver)


def test_names() -> None:
    assert names_host(Multiaddr.parse("/dns/host/tcp/1"))
    assert not names_host(Multiaddr.parse("/ip4/10.0.0.1/tcp/1"))


def test_interleaving() -> None:
    assert interleave("abc", "1") == ["a", "1", "b", "c"]
    assert interleave("", "12") == ["1", "2"]
