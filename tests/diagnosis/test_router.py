from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from stronghold_p2p import Multiaddr, PeerId, PortMapped, PortMappingFailed
from stronghold_p2p.diagnosis.facts import Router
from stronghold_p2p.diagnosis.router import check_port_mapping

PEER = PeerId.parse("12D3KooWHbzMJW3LdgTFjcv7iXKhMMhNAQAfx7tGhe6U3BHNnBKD")
LISTENER = Multiaddr.parse(f"/ip4/0.0.0.0/tcp/4001/p2p/{PEER}")
ROUTER, OWN = IPv4Address("192.168.1.1"), IPv4Address("192.168.1.2")
REFUSED = PortMappingFailed(LISTENER, "PCP: no answer; UPnP: no answer")


def mapped(external: str) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/{external}/tcp/4001/p2p/{PEER}")


@pytest.mark.parametrize(
    ("router", "verdict", "says", "advises"),
    [
        (Router(None, None), "skipped", "There is no router", None),
        (Router(IPv4Address("8.8.8.1"), IPv4Address("8.8.8.8")), "skipped", "our address 8.8.8.8 is public", None),
        (Router(ROUTER, OWN, asked=False), "skipped", "The router 192.168.1.1 was not asked", None),
        (Router(ROUTER, OWN), "unknown", "has not said in time", "--seconds 30"),
        (Router(ROUTER, OWN, mapping=PortMapped(mapped("1.2.3.4"), "UPnP", 0.0)), "ok", "forwards ports by UPnP: it gave us /ip4/1.2.3.4/tcp/4001, and has it back", "Start the peer with --port-mapping."),
        (Router(ROUTER, OWN, mapping=PortMappingFailed(LISTENER, "", mapped("100.64.0.9"))), "note", "its own address 100.64.0.9 is not public", "use IPv6"),
        (Router(ROUTER, OWN, mapping=REFUSED, port=5001), "note", "forwards no port on request: PCP: no answer; UPnP: no answer.", "have the router 192.168.1.1 forward TCP port 5001 to 192.168.1.2, and start"),
        (Router(ROUTER, OWN, mapping=REFUSED, upnp=False), "note", "forwards no port", "the extra `upnp` (in a clone: `pip install '.[upnp]'`)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_port_mapping(router: Router, verdict: str, says: str, advises: str | None) -> None:
    found = check_port_mapping(router)
    assert (found.check, found.verdict) == ("port_mapping", verdict)
    assert says in found.what
    assert (found.advice is None) if advises is None else (advises in str(found.advice))


def test_its_data() -> None:
    found = check_port_mapping(Router(ROUTER, OWN, mapping=PortMapped(mapped("1.2.3.4"), "PCP", 0.0)))
    assert found.data == {
        "router": "192.168.1.1",
        "local": "192.168.1.2",
        "protocol": "PCP",
        "external": "/ip4/1.2.3.4/tcp/4001",
        "reason": None,
    }
