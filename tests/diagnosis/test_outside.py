from __future__ import annotations

import pytest

from stronghold_p2p import AddressOrigin, AddressReachability, Multiaddr, NatKind, PeerId, Reachability
from stronghold_p2p.diagnosis.facts import Outside
from stronghold_p2p.diagnosis.outside import check_nat, check_reachability

PEER = PeerId.parse("12D3KooWHbzMJW3LdgTFjcv7iXKhMMhNAQAfx7tGhe6U3BHNnBKD")
SERVER = PeerId.parse("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmtyKBCHqkM")
ADDRESS = Multiaddr.parse(f"/ip4/8.8.8.8/tcp/4001/p2p/{PEER}")


@pytest.mark.parametrize(
    ("outside", "verdict", "says"),
    [
        (Outside(2, NatKind.NONE), "ok", "No router translates our addresses"),
        (Outside(2, NatKind.ENDPOINT_INDEPENDENT), "ok", "hole punching can make relayed paths direct"),
        (Outside(2, NatKind.ENDPOINT_DEPENDENT), "note", "hole punching does not work from here"),
        (Outside(1), "skipped", "takes two relays or peers"),
        (Outside(2), "unknown", "The 2 remotes that were asked do not tell"),
    ],
    ids=str,
)
def test_nat(outside: Outside, verdict: str, says: str) -> None:
    found = check_nat(outside)
    assert (found.check, found.verdict) == ("nat", verdict)
    assert says in found.what
    assert (found.advice is not None) is (verdict in {"note", "skipped"})
    assert found.data == {"kind": outside.nat_kind.value if outside.nat_kind is not None else None}


@pytest.mark.parametrize(
    ("outside", "of_nat", "of_reachability"),
    [
        (Outside(), "Give two relays, with --relay", "Give one, with --relay"),
        (Outside(given=1), "Give another relay or peer, too", "Give another one, which answers at a public address"),
        (Outside(1, given=1), "Give another relay or peer, too", "Give another one"),
        (Outside(given=2), "two relays or peers that answer at public IPv4 addresses", "Give another one"),
    ],
    ids=str,
)
def test_what_was_given_is_not_asked_for_again(outside: Outside, of_nat: str, of_reachability: str) -> None:
    assert of_nat in str(check_nat(outside).advice)
    assert of_reachability in str(check_reachability(outside, needed=False).advice)


def known(
    origin: AddressOrigin, *, by: bool = False, not_by: bool = False, state: Reachability = Reachability.UNKNOWN
) -> dict[Multiaddr, AddressReachability]:
    return {ADDRESS: AddressReachability(state, origin, (SERVER,) * by, (SERVER,) * not_by)}


@pytest.mark.parametrize(
    ("outside", "verdict", "says", "advises"),
    [
        (Outside(0), "skipped", "Nobody was asked to dial us: that takes", "--relay"),
        (Outside(1, servers=1), "note", "we have no public address", None),
        (Outside(1, None, 1, known(AddressOrigin.INTERFACE)), "unknown", "has dialed us yet, though asked: /ip4/8.8.8.8/tcp/4001 (of an interface).", "--seconds 30"),
        (Outside(1, None, 1, known(AddressOrigin.OBSERVED, by=True)), "ok", f"can dial us at /ip4/8.8.8.8/tcp/4001 (observed by others), as {SERVER} has.", None),
        (Outside(1, None, 1, known(AddressOrigin.MAPPED, by=True, not_by=True)), "ok", "can dial us at", None),
        (Outside(1, None, 1, known(AddressOrigin.INTERFACE, not_by=True)), "note", f"cannot dial us at /ip4/8.8.8.8/tcp/4001 (of an interface), which {SERVER} has tried.", "Let TCP port 4001 through the firewalls of this machine and its provider."),
        (Outside(1, None, 1, known(AddressOrigin.MAPPED, not_by=True)), "note", "(mapped by a router)", "a firewall behind the router"),
        (Outside(1, None, 1, known(AddressOrigin.ANNOUNCED, not_by=True)), "note", "(announced)", "leads to this machine"),
        (Outside(1, None, 1, known(AddressOrigin.OBSERVED, not_by=True)), "note", "(observed by others)", "--port-mapping or by hand"),
    ],
    ids=lambda value: value if isinstance(value, str) and "12D3" not in value else "",
)  # fmt: skip
def test_reachability(outside: Outside, verdict: str, says: str, advises: str | None) -> None:
    found = check_reachability(outside, needed=False)
    assert (found.check, found.verdict) == ("reachability", verdict)
    assert says in found.what
    assert (found.advice is None) if advises is None else (advises in str(found.advice))


def test_that_nobody_can_dial_us_is_a_problem_without_a_relay() -> None:
    outside = Outside(1, None, 1, known(AddressOrigin.OBSERVED, not_by=True, state=Reachability.UNREACHABLE))
    found = check_reachability(outside, needed=True)
    assert found.verdict == "problem"
    assert found.data == {
        "addresses": {
            str(ADDRESS): {
                "state": "unreachable",
                "origin": "observed by others",
                "dialed_by": [],
                "not_dialed_by": [str(SERVER)],
            }
        }
    }
