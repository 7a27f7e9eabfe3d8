from __future__ import annotations

import pytest

from stronghold_p2p import Multiaddr
from stronghold_p2p.resources.networks import networks_of

RELAY = "12D3KooWGaqinaec1YWYJHnbqTSxDA7wpDguVwJnRqgmeHBTXmSV"


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("/ip4/192.0.2.7/tcp/1", ("192.0.2.7/32",)),
        ("/ip4/192.0.2.7/tcp/2/ws", ("192.0.2.7/32",)),
        ("/ip6/2001:db8:1:2345::7/tcp/1", ("2001:db8:1::/48", "2001:db8:1:2300::/56")),
        ("/ip6/2001:db8:1:23ff:1::/tcp/1", ("2001:db8:1::/48", "2001:db8:1:2300::/56")),
        ("/ip6/::ffff:192.0.2.7/tcp/1", ("192.0.2.7/32",)),
        (f"/ip4/192.0.2.7/tcp/1/p2p/{RELAY}/p2p-circuit", ("192.0.2.7/32",)),
        ("/dns/bob.example/tcp/1", ("/dns/bob.example",)),
        ("/memory/5", ("/memory/5",)),
    ],
)
def test_the_networks_of_an_address(address: str, networks: tuple[str, ...]) -> None:
    assert networks_of(Multiaddr.parse(address)) == networks


def test_who_is_not_connected_is_a_network_of_its_own() -> None:
    assert networks_of(None) == ("none",)
