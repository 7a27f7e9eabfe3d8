"""Addresses that change while peers talk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.namespaces import INTERFACE, Host

from .conftest import MakeLink, peer_of

pytestmark = pytest.mark.slow

ASK_ON = str(Path(__file__).parent / "programs" / "ask_on.py")

AGAIN_WITHIN = 10.0
"""Seconds until requests work again. It is a promise, so the tests assert it."""


@pytest.mark.parametrize("changing", ["asks", "answers"])
def test_requests_work_again_at_another_address(make_link: MakeLink, changing: str) -> None:
    # Not a cable: of that the other end would see that it was unplugged.
    with (
        make_link(rate=100e6, delay=0.001) as (alice, bob, _),
        bob.stronghold_p2p("listen", "--mdns", "--allow-all") as listener,
        alice.python(ASK_ON, peer_of(listener)) as asker,
    ):
        asker.event("answered")
        host = alice if changing == "asks" else bob
        host.ip(f"link set {INTERFACE} down", f"address flush dev {INTERFACE}")
        asker.event("failed")
        host.ip4 = "10.16.0.77"
        host.ip(
            f"address add {host.ip4}/24 dev {INTERFACE}",
            f"link set {INTERFACE} up",
            f"route add 224.0.0.0/4 dev {INTERFACE}",
        )
        changed = time.monotonic()
        asker.event("answered")
        assert time.monotonic() - changed < AGAIN_WITHIN


def test_a_listener_is_there_again_when_its_address_is(pair: tuple[Host, Host]) -> None:
    alice, bob = pair
    address = f"{bob.ip4}/24 dev {INTERFACE}"
    with bob.stronghold_p2p("listen", f"/ip4/{bob.ip4}/tcp/0", "--allow-all") as listener:
        to = listener.event("listening")["address"]
        bob.ip(f"address delete {address}")
        with alice.stronghold_p2p("request", to, "1", "--timeout", "0.2") as asker:
            assert asker.line()["error"] in {"DialError", "RequestTimeout"}
        bob.ip(f"address add {address}")
        with alice.stronghold_p2p("request", to, "1") as asker:
            assert asker.line() == 1
