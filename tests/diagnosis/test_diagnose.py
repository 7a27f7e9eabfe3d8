"""A diagnosis of peers and relays on this machine."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from conftest import MakePeer

from stronghold_p2p import (
    FirewallRules,
    InvalidAddress,
    Keypair,
    ListenError,
    Multiaddr,
    RelayServer,
    StrongholdP2p,
)
from stronghold_p2p.diagnosis import Diagnosis, Finding, diagnose, examination
from stronghold_p2p.firewall.admission import AdmissionRules

LOCAL = "/ip4/127.0.0.1/tcp/0"


async def run(**arguments: Any) -> Diagnosis:
    return await diagnose(listen=LOCAL, **arguments)


def found(diagnosis: Diagnosis, check: str) -> Finding:
    (finding,) = [one for one in diagnosis.findings if one.check == check]
    return finding


def verdicts(diagnosis: Diagnosis) -> dict[str, str]:
    """But for what is of this machine."""
    of_machine = {"interfaces", "clock", "dns", "mdns", "port_mapping", "nat", "reachability"}
    return {one.check: one.verdict for one in diagnosis.findings if one.check not in of_machine}


async def listening(
    make_peer: MakePeer, relay: Multiaddr | None = None, **arguments: Any
) -> tuple[StrongholdP2p[Any, Any], Multiaddr]:
    peer = await make_peer(**{"firewall": FirewallRules.allow_all(), **arguments})
    peer.on_request(lambda request: request.body)
    address = await peer.listen()
    return peer, address if relay is None else await peer.listen_via_relay(relay)


async def relaying(make_peer: MakePeer, **limits: Any) -> Multiaddr:
    relay = await make_peer(relay=RelayServer(**limits))
    return await relay.listen()


async def test_alone() -> None:
    told: list[Finding] = []
    diagnosis = await run(tell=told.append)
    assert [one.check for one in told] == ["interfaces", "dns", "mdns", "clock", "port_mapping", "nat", "reachability"]
    assert diagnosis.findings == tuple(told)
    assert (diagnosis.reach, diagnosis.problems) == ("not at all", 1)
    assert found(diagnosis, "interfaces").verdict == "problem"


async def test_a_relay_and_a_peer(make_peer: MakePeer) -> None:
    relay = await relaying(make_peer, max_reservations=2)
    bob, address = await listening(make_peer)
    await bob.listen_via_relay(relay)
    diagnosis = await run(relays=[str(relay)], peer=str(address))
    assert verdicts(diagnosis) == {
        "relay": "note",  # it has no public address
        "peer": "ok",
        "peer_by_relay": "ok",
        "ping": "ok",
        "requests": "ok",
    }
    assert found(diagnosis, "clock").verdict == "ok"
    assert diagnosis.reach == "not at all"  # this machine is in no network
    assert diagnosis.what.startswith(f"You can reach the peer {bob.peer_id} directly.")
    assert diagnosis.what.endswith("Peers on this machine can, through the relay.")
    carol = await make_peer()
    assert await carol.listen_via_relay(relay)  # there is a place again


async def test_a_peer_that_only_a_relay_leads_to(make_peer: MakePeer) -> None:
    relay = await relaying(make_peer)
    bob, circuit = await listening(make_peer, relay)
    await bob.stop_listening(bob.listeners[0].address)
    for target in (circuit, f"/ip4/127.0.0.1/tcp/1/p2p/{bob.peer_id}"):
        diagnosis = await run(relays=[] if target is circuit else [str(relay)], peer=str(target))
        assert diagnosis.what.startswith(f"You can reach the peer {bob.peer_id} through a relay only.")
        expected = {"peer_by_relay": "ok", "ping": "ok", "requests": "ok", "hole_punching": "note"}
        if target is not circuit:
            expected |= {"relay": "note", "peer": "note"}
        assert verdicts(diagnosis) == expected


async def test_another_address_of_the_peer(make_peer: MakePeer) -> None:
    bob, _ = await listening(make_peer)
    diagnosis = await run(peer=f"{bob.listeners[0].address}")
    assert "peer_address" not in verdicts(diagnosis)
    other = await bob.listen()
    diagnosis = await run(peer=f"{bob.listeners[0].address}")
    assert found(diagnosis, "peer_address").data["dialed"] == str(other.without_peer())


async def test_a_relay_that_refuses(make_peer: MakePeer) -> None:
    relay = await relaying(make_peer, reserve={Keypair.generate().peer_id})
    _, address = await listening(make_peer)
    diagnosis = await run(relays=[str(relay)], peer=str(address))
    assert "status 202" in found(diagnosis, "relay").what
    assert "status 204" in found(diagnosis, "peer_by_relay").what
    assert (diagnosis.problems, diagnosis.reach) == (2, "not at all")  # interfaces, relay


async def test_a_relay_that_only_connects_us(make_peer: MakePeer) -> None:
    keypair = Keypair.generate()
    relay = await relaying(make_peer, reserve={keypair.peer_id})
    bob, _ = await listening(make_peer, relay, keypair=keypair)
    diagnosis = await run(relays=[str(relay)], peer=f"/ip4/127.0.0.1/tcp/1/p2p/{bob.peer_id}")
    assert "status 202" in found(diagnosis, "relay").what
    assert (found(diagnosis, "relay").verdict, found(diagnosis, "peer_by_relay").verdict) == ("note", "ok")


async def test_two_addresses_of_a_relay(make_peer: MakePeer) -> None:
    """Each is tried; the reservation is one."""
    relay = await make_peer(relay=RelayServer())
    addresses = [str(await relay.listen(f"{LOCAL}{kind}")) for kind in ("", "/ws")]
    nowhere = f"/ip4/127.0.0.1/tcp/1/p2p/{relay.peer_id}"
    nor_there = f"/ip4/127.0.0.1/tcp/2/p2p/{relay.peer_id}"
    diagnosis = await run(relays=[nowhere, addresses[0], nor_there, addresses[1], addresses[0]])
    relays = [one for one in diagnosis.findings if one.check == "relay"]
    assert [(one.verdict, one.data["transport"]) for one in relays] == [
        ("problem", None),
        ("note", "tcp"),  # it has no public address
        ("problem", None),
        ("note", "ws"),
    ]
    assert f"--via-relay {addresses[0]}" in str(diagnosis.advice)
    assert "gives a reservation" in relays[3].what


async def test_a_relay_that_is_none(make_peer: MakePeer) -> None:
    _, address = await listening(make_peer)
    diagnosis = await run(relays=[str(address)])
    assert "is no relay, or not for us" in found(diagnosis, "relay").what


async def test_the_key_that_a_relay_allows(make_peer: MakePeer) -> None:
    keypair = Keypair.generate()
    relay = await relaying(make_peer, reserve={keypair.peer_id})
    assert found(await run(relays=[str(relay)], keypair=keypair), "relay").verdict == "note"


async def test_nobody_is_there() -> None:
    nobody = Keypair.generate().peer_id
    where = f"/ip4/127.0.0.1/tcp/1/p2p/{nobody}"
    diagnosis = await run(relays=[where], peer=where)
    assert verdicts(diagnosis) == {"relay": "problem", "peer": "problem"}
    assert "a loopback address leads to this one" in str(diagnosis.advice)
    assert diagnosis.what.startswith(f"You cannot reach the peer {nobody}.")


async def test_a_peer_that_takes_no_requests(make_peer: MakePeer) -> None:
    keypair = Keypair.generate()
    _, address = await listening(make_peer, firewall=FirewallRules.reject_all())
    finding = found(await run(peer=str(address), keypair=keypair), "requests")
    assert (finding.verdict, "offers no request protocol to us" in finding.what) == ("problem", True)
    assert f"allow {keypair.peer_id}" in str(finding.advice)


async def test_a_peer_that_bans_us(make_peer: MakePeer) -> None:
    keypair = Keypair.generate()
    bob, address = await listening(make_peer)
    await bob.ban_peer(keypair.peer_id)
    diagnosis = await run(peer=str(address), keypair=keypair)
    assert found(diagnosis, "requests").verdict == "problem"
    assert "closed the connection" in found(diagnosis, "requests").what


@pytest.mark.parametrize("limit", [1, 600, 1500, 3000])
async def test_a_relay_that_lets_little_through(make_peer: MakePeer, limit: int) -> None:
    relay = await relaying(make_peer, max_bytes=limit)
    _, circuit = await listening(make_peer, relay)
    diagnosis = await run(relays=[str(relay)], peer=str(circuit))
    assert [one.check for one in diagnosis.findings].count("peer_by_relay") == 1
    assert "too little for requests" in found(diagnosis, "relay").what
    assert "requests" not in verdicts(diagnosis) or found(diagnosis, "requests").verdict == "problem"
    assert "allow more" in str(diagnosis.advice)


@pytest.mark.parametrize("by_policy", [True, False])
async def test_a_peer_that_refuses_relayed_connections(make_peer: MakePeer, by_policy: bool) -> None:
    relay = await relaying(make_peer)
    bob, circuit = await listening(make_peer, relay)
    if by_policy:
        bob._parts.admission.set_policy(AdmissionRules(relayed=False))
    else:
        bob.set_relay_mode("never")
    finding = found(await run(relays=[str(relay)], peer=str(circuit)), "peer_by_relay")
    assert finding.verdict == "problem"
    assert "it may refuse relayed connections" in str(finding.advice), finding


async def test_a_peer_that_wants_relays_only(make_peer: MakePeer) -> None:
    relay = await relaying(make_peer)
    bob, _ = await listening(make_peer, relay)
    bob.set_relay_mode("only")
    address = bob.listeners[0].address.with_peer(bob.peer_id)
    diagnosis = await run(relays=[str(relay)], peer=str(address))
    assert "ends direct connections" in found(diagnosis, "peer").what
    assert verdicts(diagnosis) == {
        "relay": "note",
        "peer": "note",
        "peer_by_relay": "ok",
        "ping": "ok",
        "requests": "ok",
        "hole_punching": "note",
    }
    assert "through a relay only: it ends direct connections." in diagnosis.what
    diagnosis = await run(peer=str(address))
    assert "it ends direct connections." in diagnosis.what


async def test_a_peer_by_its_id_alone(make_peer: MakePeer) -> None:
    bob, address = await listening(make_peer, mdns=True)
    seconds = 25.0
    while not found(diagnosis := await run(peer=str(bob.peer_id), seconds=seconds), "mdns").data["peers"]:
        seconds *= 2  # a busy machine takes longer
    assert found(diagnosis, "mdns").what == f"On the local network answered {bob.peer_id}."
    assert found(diagnosis, "peer").data["dialed"] == str(address.without_peer())
    nobody = Keypair.generate().peer_id
    diagnosis = await run(relays=[str(nobody)], peer=str(nobody))
    assert verdicts(diagnosis) == {"relay": "problem", "peer": "problem"}
    assert "nobody on the local network answers for it" in found(diagnosis, "peer").what


async def test_a_peer_by_its_id_alone_that_a_relay_leads_to(
    make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nobody answers by mDNS is no problem then."""
    asked: list[bool] = []

    def check(*_: object, needed: bool) -> Finding:
        asked.append(needed)
        return Finding("mdns", "ok", "")

    monkeypatch.setattr(examination, "check_mdns", check)
    relay = await relaying(make_peer)
    bob, _ = await listening(make_peer, relay)
    nobody = Keypair.generate().peer_id
    for peer in (bob.peer_id, nobody):
        await run(relays=[str(relay)], peer=str(peer))
    assert asked == [False, True]


async def test_names(make_peer: MakePeer) -> None:
    _, address = await listening(make_peer)
    port = address.components[1][1]
    diagnosis = await run(peer=f"/dns4/localhost/tcp/{port}/p2p/{address.peer_id}", names=["localhost", "a..example"])
    first, *others = [one for one in diagnosis.findings if one.check == "dns"]
    assert first.what == f"The name in /dns4/localhost/tcp/{port} leads to /ip4/127.0.0.1/tcp/{port}."
    assert [one.verdict for one in others] == ["ok", "problem"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"relays": ["nonsense"]},
        {"relays": ["/ip4/127.0.0.1/tcp/1"]},
        {"peer": "/ip4/127.0.0.1/tcp/1"},
        {"names": ["/ip4/127.0.0.1/tcp/1"]},
        {"names": [""]},
    ],
    ids=str,
)
async def test_what_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidAddress):
        await run(**arguments)


async def test_this_peer_itself() -> None:
    keypair = Keypair.generate()
    with pytest.raises(InvalidAddress, match="of this peer itself"):
        await run(peer=str(keypair.peer_id), keypair=keypair)


async def test_where_it_cannot_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError):
        await diagnose(listen=f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}")
    with pytest.raises(InvalidAddress):
        await diagnose(listen="nonsense")


async def test_whoever_is_told_may_end_it() -> None:
    def leave(finding: Finding) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await run(tell=leave)
