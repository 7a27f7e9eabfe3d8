"""Two peers at homes behind NAT that a relay joins: where their routers allow it, they come to talk directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.namespaces import Host, HostProcess
from support.nat import Nat

from .conftest import MakeInternet

pytestmark = pytest.mark.slow

PROGRAM = str(Path(__file__).with_name("programs") / "punch.py")

PORT = "/ip4/{}/tcp/4001"


class Trio(NamedTuple):
    """The processes."""

    relay: HostProcess
    bob: HostProcess
    alice: HostProcess

    def circuits(self) -> int:
        count: int = self.ask(self.relay, "circuits")["count"]
        return count

    @staticmethod
    def ask(process: HostProcess, event: str) -> Any:
        process.send("go on")
        return process.event(event)

    def end(self) -> list[str]:
        """Every request has ended once, with its response. The relays of Alice's connections."""
        done = self.ask(self.alice, "done")
        assert done["errors"] == []
        assert done["answered"] == done["sent"] > 0
        assert self.ask(self.bob, "handled") == {"event": "handled", "count": done["sent"], "twice": 0}
        relays: list[str] = done["relays"]
        return relays


@contextmanager
def trio(server: Host, alice: Host, bob: Host, role: str = "alice") -> Iterator[Trio]:
    with ExitStack() as stack:
        relay = stack.enter_context(server.python(PROGRAM, "relay", PORT.format(server.ip4)))
        listener = stack.enter_context(bob.python(PROGRAM, "bob", relay.event("listening")["address"]))
        asker = stack.enter_context(alice.python(PROGRAM, role, listener.event("listening")["address"]))
        yield Trio(relay, listener, asker)


def test_a_hole_is_punched(make_internet: MakeInternet) -> None:
    """Requests go on meanwhile, and then no longer through the relay."""
    nat = Nat.ENDPOINT_INDEPENDENT
    with make_internet(1, nat, nat) as ((server,), (alice, bob)), trio(server, alice.host, bob.host) as peers:
        for process, other in (peers.bob, alice), (peers.alice, bob):
            assert process.event("path_upgraded")["address"] == PORT.format(other.router.ip4)
        while peers.circuits():
            pass
        assert peers.end() == ["None", "None"]


def test_no_hole_through_symmetric_nat(make_internet: MakeInternet) -> None:
    """Both ends say so, and requests go on through the relay."""
    nat = Nat.SYMMETRIC
    with make_internet(1, nat, nat) as ((server,), (alice, bob)), trio(server, alice.host, bob.host) as peers:
        for process in peers.bob, peers.alice:
            attempts = [process.event("hole_punch_failed") for _ in range(3)]
            assert [(one["attempt"], one["last"]) for one in attempts] == [(1, False), (2, False), (3, True)]
            assert "no answer" in attempts[-1]["message"]
        assert peers.circuits() == 1
        relays = peers.end()
        assert len(relays) == 2
        assert set(relays) > {"None"}


@pytest.mark.parametrize("nat", Nat)
def test_dialing_back_who_can_be_reached(make_internet: MakeInternet, nat: Nat) -> None:
    with make_internet(2, nat) as ((server, alice), (bob,)), trio(server, alice, bob.host) as peers:
        assert peers.bob.event("path_upgraded")["address"] == PORT.format(alice.ip4)
        assert peers.alice.event("path_upgraded")
        while peers.circuits():
            pass
        assert peers.end() == ["None", "None"]


def test_who_can_be_reached_is_dialed_though_it_came_by_a_relay(make_internet: MakeInternet) -> None:
    """Bob is in public: Alice, behind a NAT of any kind, dials him as they agree."""
    with make_internet(2, Nat.SYMMETRIC) as ((server, bob), (alice,)), trio(server, alice.host, bob) as peers:
        assert peers.alice.event("path_upgraded")["address"] == PORT.format(bob.ip4)
        while peers.circuits():
            pass
        assert peers.end() == ["None", "None"]


def test_who_will_have_a_relay_alone_is_left_to_it(make_internet: MakeInternet) -> None:
    nat = Nat.ENDPOINT_INDEPENDENT
    with (
        make_internet(1, nat, nat) as ((server,), (alice, bob)),
        trio(server, alice.host, bob.host, "alice-by-relay") as peers,
    ):
        # Bob does not know, and is refused.
        assert [peers.bob.event("hole_punch_failed")["attempt"] for _ in range(3)] == [1, 2, 3]
        assert peers.circuits() == 1
        assert set(peers.end()) > {"None"}
