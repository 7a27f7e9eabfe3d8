"""Peers on a link of 100 Mbit/s and 100 ms round trip."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import HostProcess

from .conftest import MakeLink, peer_of

pytestmark = pytest.mark.slow

RATE = 100e6
DELAY = 0.05
MANY_REQUESTS = str(Path(__file__).parent / "programs" / "many_requests.py")


def test_a_peer_is_found_and_answers_a_thousand_requests_though_frames_are_lost(make_link: MakeLink) -> None:
    with (
        make_link(rate=RATE, delay=DELAY, loss=0.01) as (alice, bob, link),
        bob.stronghold_p2p("listen", "--mdns", "--allow-all") as listener,
        alice.python(MANY_REQUESTS, peer_of(listener), "1000", "100") as asker,
    ):
        assert asker.event("done")["answered"] == 1000
        assert sum(way["lost"] for way in look(link)["carried"]) > 0


def test_one_stream_reaches_half_of_the_rate(make_link: MakeLink) -> None:
    with make_link(rate=RATE, delay=DELAY) as (alice, bob, link):
        server = ("--server-address", f"{bob.ip4}:4001")
        with bob.stronghold_p2p("perf", "--run-server", *server) as listener:
            listener.event("listening")
            with alice.stronghold_p2p("perf", *server, "--upload-bytes", "25000000") as client:
                looks = [look(link)]
                while client.line()["type"] != "final":
                    looks.append(look(link))
    # By the link's own account, between two of the client's lines, which are a second apart.
    shares = [
        (after["carried"][0]["busy"] - before["carried"][0]["busy"]) / (after["now"] - before["now"])
        for before, after in pairwise(looks)
    ]
    assert max(shares) >= 0.5


def look(link: HostProcess) -> Any:
    """What each direction has carried by now."""
    link.send("look")
    return link.line()
