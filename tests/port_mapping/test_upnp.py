"""UPnP, with a device in place of miniupnpc's, and with miniupnpc itself."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from support.router import LOCAL
from support.upnp_router import Searched, SoapRouter
from support.waiting import until

from stronghold_p2p import PortMappingError
from stronghold_p2p.port_mapping import upnp as module
from stronghold_p2p.port_mapping.gateway import Gateway
from stronghold_p2p.port_mapping.mapping import LIFETIME, PortMapping
from stronghold_p2p.port_mapping.ssdp import KINDS
from stronghold_p2p.port_mapping.upnp import Upnp

OWN = (str(LOCAL), 4001)


class FakeDevice:
    """As ``miniupnpc.UPnP``."""

    def __init__(self) -> None:
        self.control: str | None = "http://127.0.0.1:5000/control"
        self.external = "1.2.3.4"
        self.selected: list[str] = []
        self.mappings: dict[int, tuple[str, int, int]] = {}
        """Host, port and lifetime, by external port."""
        self.refusals: list[str] = []
        """What the next requests for a mapping are refused with."""
        self.gate = threading.Event()
        """A request for the external address waits for it."""
        self.gate.set()

    def selectigd(self, url: str, /) -> str | None:
        self.selected.append(url)
        return self.control

    def externalipaddress(self) -> str:
        self.gate.wait(10)
        return self.external

    def getspecificportmapping(self, external_port: int, protocol: str, /) -> tuple[Any, ...] | None:
        assert protocol == "TCP"
        holder = self.mappings.get(external_port)
        return (*holder[:2], "text", True, 60) if holder else None

    def addportmapping(
        self, external_port: int, protocol: str, host: str, port: int, text: str, remote: str, lifetime: int, /
    ) -> bool:
        assert (protocol, text, remote) == ("TCP", "stronghold-p2p", "")
        if self.refusals:
            raise Exception(self.refusals.pop(0))  # noqa: TRY002  as miniupnpc does
        self.mappings[external_port] = host, port, lifetime
        return True

    def deleteportmapping(self, external_port: int, protocol: str, /) -> bool:
        assert protocol == "TCP"
        if self.mappings.pop(external_port, None) is None:
            raise Exception("NoSuchEntryInArray")  # noqa: TRY002
        return True


@pytest.fixture
def searched() -> Iterator[Searched]:
    searched = Searched("http://192.0.2.1/elsewhere", "http://127.0.0.1:5000/description")
    yield searched
    searched.close()


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def upnp(device: FakeDevice, searched: Searched) -> Upnp:
    return Upnp(searched.gateway, lambda: device)


async def test_a_port_is_mapped_renewed_and_deleted(upnp: Upnp, device: FakeDevice) -> None:
    mapping = await upnp.map(4001, None)
    assert mapping == PortMapping(IPv4Address("1.2.3.4"), 4001, LIFETIME)
    assert device.mappings == {4001: (*OWN, LIFETIME)}
    assert device.selected == ["http://127.0.0.1:5000/description"]
    assert await upnp.map(4001, mapping) == mapping
    await upnp.unmap(4001)
    assert not device.mappings
    assert len(device.selected) == 1  # it was found once


async def test_a_check_has_all_mapped_again(upnp: Upnp) -> None:
    await upnp.check()
    assert upnp.lost


async def test_a_port_that_others_have_stays_theirs(upnp: Upnp, device: FakeDevice) -> None:
    others = ("192.168.1.9", 4001, 0)
    device.mappings[4001] = others
    mapping = await upnp.map(4001, None)
    assert mapping.external_port != 4001
    assert device.mappings == {4001: others, mapping.external_port: (*OWN, LIFETIME)}
    await upnp.unmap(4001)
    assert device.mappings == {4001: others}


async def test_a_router_that_knows_permanent_mappings_alone(upnp: Upnp, device: FakeDevice) -> None:
    device.refusals = ["OnlyPermanentLeasesSupported"]
    assert (await upnp.map(4001, None)).lifetime == LIFETIME  # it is looked after as if it ended
    assert device.mappings == {4001: (*OWN, 0)}


async def test_a_conflict(upnp: Upnp, device: FakeDevice) -> None:
    device.refusals = ["ConflictInMappingEntry"] * 2
    mapping = await upnp.map(4001, None)
    assert mapping.external_port != 4001
    assert device.mappings == {mapping.external_port: (*OWN, LIFETIME)}


async def test_a_refusal(upnp: Upnp, device: FakeDevice) -> None:
    device.refusals = ["Action not authorized"] * 4
    with pytest.raises(PortMappingError, match=r"^UPnP: the router refuses: Action not authorized$") as caught:
        await upnp.map(4001, None)
    assert caught.value.answered
    assert not device.refusals
    await upnp.unmap(4001)  # of which there is none
    await upnp.map(4001, None)
    assert len(device.selected) == 2  # after a refusal the router is looked for again


@pytest.mark.parametrize("external", ["", "none", "fe80::1"])
async def test_an_external_address_that_is_none(upnp: Upnp, device: FakeDevice, external: str) -> None:
    device.external = external
    with pytest.raises(PortMappingError, match="the router refuses"):
        await upnp.map(4001, None)


@pytest.mark.parametrize("control", [None, "", "http://192.0.2.1/control"])
async def test_a_router_without_a_control_of_its_own(upnp: Upnp, device: FakeDevice, control: str | None) -> None:
    device.control = control
    with pytest.raises(PortMappingError, match="describes no connection"):
        await upnp.map(4001, None)


async def test_nothing_answers_the_search(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> None:
    monkeypatch.setattr(module, "SEARCH_WAITS", (0.01, 0.01))
    searched = Searched("http://192.0.2.1/elsewhere")
    with pytest.raises(PortMappingError, match="no answer") as caught:
        await Upnp(searched.gateway, lambda: device).map(4001, None)
    assert not caught.value.answered
    searched.close()
    assert len(searched.searches) == 2 * len(KINDS)
    assert not device.selected


async def test_no_network(device: FakeDevice) -> None:
    nowhere = Gateway(LOCAL, LOCAL, search=("255.255.255.255", 1900))  # broadcasts are forbidden
    with pytest.raises(PortMappingError, match=r"no answer from .*: permission denied") as caught:
        await Upnp(nowhere, lambda: device).map(4001, None)
    assert not caught.value.answered


async def test_without_miniupnpc(monkeypatch: pytest.MonkeyPatch, searched: Searched) -> None:
    monkeypatch.setitem(sys.modules, "miniupnpc", None)
    with pytest.raises(PortMappingError, match=r"pip install '\.\[upnp\]'") as caught:
        await Upnp(searched.gateway).map(4001, None)
    assert not caught.value.answered
    assert not searched.searches


async def test_a_router_that_hangs_is_given_up_and_nothing_waits_behind_it(
    monkeypatch: pytest.MonkeyPatch, upnp: Upnp, device: FakeDevice
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    device.gate.clear()
    for _ in range(2):
        with pytest.raises(PortMappingError, match="no answer") as caught:
            await upnp.map(4001, None)
        assert not caught.value.answered
    device.gate.set()
    await until(lambda: device.mappings)


async def test_what_is_mapped_after_a_cancellation_is_deleted(upnp: Upnp, device: FakeDevice) -> None:
    device.gate.clear()
    asking = asyncio.create_task(upnp.map(4001, None))
    await until(lambda: device.selected)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    deleting = asyncio.create_task(upnp.unmap(4001))
    device.gate.set()
    await deleting
    assert not device.mappings


async def test_deleting_raises_nothing(upnp: Upnp, device: FakeDevice) -> None:
    await upnp.map(4001, None)
    device.mappings.clear()
    await upnp.unmap(4001)


# -- miniupnpc itself ------------------------------------------------------------------------------


@pytest.fixture
def soap() -> Iterator[SoapRouter]:
    pytest.importorskip("miniupnpc")
    router = SoapRouter()
    yield router
    router.close()


async def test_a_real_router_maps_renews_and_deletes(soap: SoapRouter) -> None:
    upnp = Upnp(soap.gateway)
    mapping = await upnp.map(4001, None)
    assert mapping == PortMapping(IPv4Address("1.2.3.4"), 4001, LIFETIME)
    assert soap.mappings == {4001: (*OWN, LIFETIME, "stronghold-p2p")}
    assert await upnp.map(4001, mapping) == mapping
    await upnp.unmap(4001)
    assert not soap.mappings


async def test_a_real_router_with_permanent_mappings_alone(soap: SoapRouter) -> None:
    soap.permanent = True
    assert (await Upnp(soap.gateway).map(4001, None)).external_port == 4001
    assert soap.mappings == {4001: (*OWN, 0, "stronghold-p2p")}


async def test_a_real_router_whose_port_others_have(soap: SoapRouter) -> None:
    soap.mappings[4001] = ("192.168.1.9", 4001, 0, "theirs")
    mapping = await Upnp(soap.gateway).map(4001, None)
    assert soap.mappings.keys() == {4001, mapping.external_port}


@pytest.mark.parametrize("description", ["", "<root/>", "\0\xff", "<root>" * 1000])
async def test_a_real_router_that_describes_nothing(soap: SoapRouter, description: str) -> None:
    soap.description = description
    with pytest.raises(PortMappingError):
        await Upnp(soap.gateway).map(4001, None)


async def test_a_real_router_that_sends_elsewhere(soap: SoapRouter) -> None:
    soap.description = soap.description.replace("<device>", "<URLBase>http://192.0.2.1/</URLBase><device>", 1)
    with pytest.raises(PortMappingError, match="describes no connection"):
        await Upnp(soap.gateway).map(4001, None)


async def test_a_real_router_without_an_address(soap: SoapRouter) -> None:
    soap.external = "nowhere"
    with pytest.raises(PortMappingError, match="nowhere"):
        await Upnp(soap.gateway).map(4001, None)
