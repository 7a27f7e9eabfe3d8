from __future__ import annotations

import time
from ipaddress import ip_network

import pytest

from stronghold_p2p.firewall.admission import Admission, AdmissionRules, Network, RelayMode
from stronghold_p2p.identity import PeerId
from stronghold_p2p.multiaddr import Multiaddr

# Always the same, since they are part of parameters: the workers of a parallel run must agree on what these are called.
ALICE = PeerId.parse("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
BOB = PeerId.parse("12D3KooWQYV9dGMFoRzNStwpXztXaBUjtPqi6aU76ZgUriHhKust")
RELAY = "12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV"


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


def refusal(
    address: str, *, allow: tuple[Network, ...] = (), deny: tuple[Network, ...] = (), relayed: bool | None = None
) -> str | None:
    admission = Admission()
    admission.set_policy(AdmissionRules(allow_networks=allow, deny_networks=deny, relayed=relayed))
    return admission.refusal_of_address(Multiaddr.parse(address))


# -- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/ip4/10.1.2.3/tcp/1", "/ip6/2001:db8::1/tcp/1"])
def test_without_a_policy_every_address_passes(address: str) -> None:
    assert Admission().refusal_of_address(Multiaddr.parse(address)) is None


@pytest.mark.parametrize(
    ("ip", "passes"),
    [
        ("10.1.2.3", True),
        ("10.9.2.3", False),
        ("10.9.7.7", False),
        ("11.0.0.0", False),
        ("9.255.255.255", False),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
    ],
)
def test_deny_goes_before_allow(ip: str, passes: bool) -> None:
    allow, deny = networks("10.0.0.0/8", "192.0.2.1"), networks("10.9.0.0/16")
    assert (refusal(f"/ip4/{ip}/tcp/1/p2p/{ALICE}", allow=allow, deny=deny) is None) is passes


def test_a_denied_network_though_a_smaller_one_is_allowed() -> None:
    assert refusal("/ip4/10.9.1.1/tcp/1", allow=networks("10.9.1.0/24"), deny=networks("10.9.0.0/16")) is not None


def test_without_allowed_networks_all_are() -> None:
    assert refusal("/ip4/11.0.0.1/tcp/1", deny=networks("10.0.0.0/8")) is None
    assert refusal("/ip6/::1/tcp/1", deny=networks("10.0.0.0/8")) is None


def test_versions_are_apart() -> None:
    assert refusal("/ip6/::1/tcp/1", allow=networks("0.0.0.0/0")) is not None
    assert refusal("/ip4/0.0.0.1/tcp/1", deny=networks("::/0")) is None
    assert refusal("/ip6/2001:db8::1/tcp/1", allow=networks("2001:db8::/32")) is None


@pytest.mark.parametrize("network", ["10.0.0.0/8", "::ffff:10.0.0.0/104", "0.0.0.0/0", "::ffff:0:0/96"])
@pytest.mark.parametrize("address", ["/ip4/10.1.2.3/tcp/1", "/ip6/::ffff:10.1.2.3/tcp/1"])
def test_mapped_addresses_are_those_of_ipv4(address: str, network: str) -> None:
    assert refusal(address, allow=networks(network)) is None
    assert refusal(address, deny=networks(network)) is not None
    assert refusal(address, deny=networks("::/0")) is None


@pytest.mark.parametrize(
    "address",
    [
        "/dns4/example.com/tcp/1",
        "/memory/1",
        "/unix/tmp/socket",
        f"/p2p/{ALICE}",
    ],
)
def test_what_is_no_ip_address_passes(address: str) -> None:
    assert refusal(address, allow=networks("192.0.2.0/24"), deny=networks("10.9.0.0/16")) is None


CIRCUIT = f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit"


def test_a_relayed_address_is_of_no_allowed_network() -> None:
    """Else an allowed relay would let in whomever it likes."""
    within = networks("192.0.2.0/24")
    assert refusal(CIRCUIT, allow=within) == "it is relayed, and the policy has an allow list of networks"
    assert refusal(CIRCUIT) is None


@pytest.mark.parametrize("relayed", [None, True])
def test_a_relay_in_a_denied_network(relayed: bool | None) -> None:
    denied = "192.0.2.1 is in the denied network 192.0.2.0/24"
    assert refusal(CIRCUIT, deny=networks("192.0.2.0/24"), relayed=relayed) == denied
    assert refusal(CIRCUIT, deny=networks("10.0.0.0/8"), relayed=relayed) is None


def test_a_relay_of_an_allowed_network_if_the_policy_says_so() -> None:
    assert refusal(CIRCUIT, allow=networks("192.0.2.0/24"), relayed=True) is None
    outside = "192.0.2.1 is in none of the allowed networks"
    assert refusal(CIRCUIT, allow=networks("10.0.0.0/8"), relayed=True) == outside


def test_no_relayed_address_at_all() -> None:
    for address in CIRCUIT, f"/p2p/{RELAY}/p2p-circuit", f"/dns4/relay.example/tcp/1/p2p/{RELAY}/p2p-circuit":
        assert refusal(address, relayed=False) == "it is relayed, which the policy rejects"
    assert refusal("/ip4/192.0.2.1/tcp/1", relayed=False) is None


def test_an_address_with_a_zone() -> None:
    assert refusal("/ip6zone/eth0/ip6/fe80::1/tcp/1", deny=networks("fe80::/10")) is not None


def test_the_reason_names_the_network() -> None:
    denied = refusal("/ip4/10.9.1.1/tcp/1", deny=networks("192.0.2.0/24", "10.9.0.0/16"))
    assert denied == "10.9.1.1 is in the denied network 10.9.0.0/16"
    assert refusal("/ip4/10.9.1.1/tcp/1", allow=networks("192.0.2.1")) == "10.9.1.1 is in none of the allowed networks"


# -- peers ---------------------------------------------------------------------------------------------


def test_without_a_policy_every_peer_passes() -> None:
    assert Admission().refusal_of_peer(ALICE) is None


def test_bans_by_calls() -> None:
    admission = Admission()
    admission.ban(ALICE)
    admission.ban(ALICE)
    assert admission.banned == {ALICE}
    assert admission.refusal_of_peer(ALICE) == "it is banned"
    assert admission.refusal_of_peer(BOB) is None
    admission.unban(ALICE)
    admission.unban(ALICE)
    assert admission.refusal_of_peer(ALICE) is None


def test_bans_by_calls_and_by_a_policy_are_apart() -> None:
    admission = Admission()
    admission.ban(ALICE)
    admission.set_policy(AdmissionRules(banned=frozenset({BOB})))
    assert admission.banned == {ALICE}
    admission.unban(BOB)
    assert admission.refusal_of_peer(BOB) == "the policy bans it"
    admission.set_policy(AdmissionRules())
    assert admission.refusal_of_peer(BOB) is None
    assert admission.refusal_of_peer(ALICE) == "it is banned"


def test_allowed_peers_alone() -> None:
    admission = Admission()
    admission.set_policy(AdmissionRules(allow_peers=frozenset({ALICE})))
    assert admission.refusal_of_peer(ALICE) is None
    assert admission.refusal_of_peer(BOB) == "it is not among the peers that the policy allows"


def test_a_denied_peer_though_it_is_allowed() -> None:
    admission = Admission()
    admission.set_policy(AdmissionRules(allow_peers=frozenset({ALICE}), deny_peers=frozenset({ALICE})))
    assert admission.refusal_of_peer(ALICE) == "the policy denies it"


def test_a_ban_goes_before_an_allowed_peer() -> None:
    admission = Admission()
    admission.set_policy(AdmissionRules(allow_peers=frozenset({ALICE, BOB}), banned=frozenset({ALICE})))
    admission.ban(BOB)
    assert admission.refusal_of_peer(ALICE) == "the policy bans it"
    assert admission.refusal_of_peer(BOB) == "it is banned"


# -- relays --------------------------------------------------------------------------------------------


PATHS = {
    "direct": "/ip4/192.0.2.1/tcp/1",
    "by name": "/dns4/example.com/tcp/1",
    "circuit": CIRCUIT,
    "circuit at any address": f"/p2p/{RELAY}/p2p-circuit",
    "perhaps either": "/dnsaddr/example.com",
}


def open_paths(admission: Admission, peer: PeerId = ALICE) -> set[str]:
    return {path for path, text in PATHS.items() if not admission.refusal_of_address(Multiaddr.parse(text), peer)}


@pytest.mark.parametrize(
    ("mode", "paths", "directly"),
    [
        ("allow", set(PATHS), True),
        ("never", {"direct", "by name", "perhaps either"}, True),
        ("only", {"circuit", "circuit at any address", "perhaps either"}, False),
    ],
)
def test_what_a_mode_admits(mode: RelayMode, paths: set[str], directly: bool) -> None:
    admission = Admission()
    for peer in None, ALICE:
        admission.set_relay_mode(peer, mode)
        assert open_paths(admission) == paths
        assert admission.may_connect_directly(ALICE) is directly
        admission.set_relay_mode(peer, None)
        assert open_paths(admission) == set(PATHS)


def test_a_policy_s_mode_goes_before_a_call_s_and_a_peer_s_before_all_s() -> None:
    admission = Admission()
    admission.set_relay_mode(None, "only")
    assert admission.relay_mode(ALICE) == "only"
    admission.set_policy(AdmissionRules(relay_mode="never"))
    assert admission.relay_mode(ALICE) == "never"
    admission.set_relay_mode(ALICE, "allow")
    assert (admission.relay_mode(ALICE), admission.relay_mode(BOB)) == ("allow", "never")
    admission.set_policy(AdmissionRules(relay_modes={ALICE: "only"}))
    assert (admission.relay_mode(ALICE), admission.relay_mode(BOB)) == ("only", "only")
    admission.set_relay_mode(None, None)
    assert admission.relay_mode(BOB) == "allow"


def test_who_forwards_for_us_is_connected_directly() -> None:
    admission = Admission()
    admission.set_relay_mode(None, "only")
    admission.is_relay = {BOB}.__contains__
    assert open_paths(admission, BOB) == set(PATHS)
    assert not admission.may_connect_directly(BOB)  # it is told no direct address of ours, all the same


def test_a_mode_lifts_no_other_refusal() -> None:
    admission = Admission()
    admission.set_relay_mode(ALICE, "only")
    admission.set_policy(AdmissionRules(relayed=False))
    assert admission.refusal_of_address(Multiaddr.parse(CIRCUIT), ALICE) == "it is relayed, which the policy rejects"


def test_whom_our_relay_serves() -> None:
    admission = Admission()
    assert admission.may_reserve(ALICE)
    assert admission.may_connect(ALICE)
    admission.set_policy(AdmissionRules(may_reserve=frozenset({ALICE}), may_connect=frozenset({BOB})))
    assert (admission.may_reserve(ALICE), admission.may_reserve(BOB)) == (True, False)
    assert (admission.may_connect(ALICE), admission.may_connect(BOB)) == (False, True)


# -- cost ----------------------------------------------------------------------------------------------


def test_ten_thousand_entries_cost_no_more_than_a_few() -> None:
    peers = frozenset(PeerId(b"\x12\x20" + number.to_bytes(32)) for number in range(10_000))
    deny = tuple(ip_network(((10 << 24) + number * 256, 24)) for number in range(10_000))
    admission = Admission()
    admission.set_policy(AdmissionRules(deny_networks=deny, deny_peers=peers, banned=peers))
    address = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
    start = time.perf_counter()
    for _ in range(1000):
        assert admission.refusal_of_address(address) is None
        assert admission.refusal_of_peer(ALICE) is None
    assert time.perf_counter() - start < 1  # 20 ms here; a look at each entry would take several seconds
    assert admission.refusal_of_address(Multiaddr.parse("/ip4/10.39.15.1/tcp/1")) is not None
