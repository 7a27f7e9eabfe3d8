"""Admission of connections: bans, and a policy's lists of networks and peers. Pure decisions."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

from ..identity import PeerId
from ..multiaddr import Multiaddr

__all__ = ["Admission", "AdmissionRules", "Network"]

Network: TypeAlias = IPv4Network | IPv6Network

IPV4_MAPPED: Final = IPv6Network("::ffff:0:0/96")
"""Where IPv6 sockets show IPv4 addresses (RFC 4291, section 2.5.5.2). A list of IPv4 networks must hold for them, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRules:
    """The admission rules of a policy. Deny takes precedence over allow; an empty allow list allows everything."""

    allow_networks: tuple[Network, ...] = ()
    deny_networks: tuple[Network, ...] = ()
    allow_peers: frozenset[PeerId] = frozenset()
    deny_peers: frozenset[PeerId] = frozenset()
    banned: frozenset[PeerId] = frozenset()


class Admission:
    """Decides about connections by address and by peer, in both directions.

    Bans from calls (:meth:`ban`) and from a policy are independent. All other rules come from the policy.
    """

    def __init__(self) -> None:
        self._banned: set[PeerId] = set()
        self.set_policy(AdmissionRules())

    @property
    def banned(self) -> AbstractSet[PeerId]:
        """The peers banned by calls."""
        return self._banned

    def ban(self, peer: PeerId) -> None:
        """Refuses ``peer``, regardless of the policy."""
        self._banned.add(peer)

    def unban(self, peer: PeerId) -> None:
        """Lifts a ban made by :meth:`ban`."""
        self._banned.discard(peer)

    def set_policy(self, rules: AdmissionRules) -> None:
        """Replaces the rules of the policy only."""
        self._policy = rules
        self._allow_networks = _NetworkSet(rules.allow_networks)
        self._deny_networks = _NetworkSet(rules.deny_networks)
        self._limits_networks = bool(rules.allow_networks or rules.deny_networks)

    def refusal_of_address(self, address: Multiaddr) -> str | None:
        """The reason to refuse ``address``; None to admit it.

        Host names are admitted here, and checked after resolution. Relayed addresses belong to no network: they are refused
        if there is a list of allowed networks; otherwise the relay is checked when we connect to it.
        """
        if not self._limits_networks:
            return None
        if address.is_relayed:
            return "it is relayed, and the policy has an allow list of networks" if self._allow_networks else None
        ip = _ip_of(address)
        if ip is None:
            return None
        denied = self._deny_networks.find(ip)
        if denied is not None:
            return f"{ip} is in the denied network {denied}"
        if self._allow_networks and self._allow_networks.find(ip) is None:
            return f"{ip} is in none of the allowed networks"
        return None

    def refusal_of_peer(self, peer: PeerId) -> str | None:
        """The reason to refuse ``peer``; None to admit it."""
        policy = self._policy
        if peer in self._banned:
            return "it is banned"
        if peer in policy.banned:
            return "the policy bans it"
        if peer in policy.deny_peers:
            return "the policy denies it"
        if policy.allow_peers and peer not in policy.allow_peers:
            return "it is not among the peers that the policy allows"
        return None


class _NetworkSet:
    """Finds the network of an address in time proportional to the number of prefix lengths, not of networks."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._by_mask: dict[int, dict[int, dict[int, Network]]] = {4: {}, 6: {}}
        """By version, netmask and network address."""
        for network in map(_unmapped, networks):
            same_mask = self._by_mask[network.version].setdefault(int(network.netmask), {})
            same_mask[int(network.network_address)] = network

    def __bool__(self) -> bool:
        return any(self._by_mask.values())

    def find(self, ip: IPv4Address | IPv6Address) -> Network | None:
        """A network that contains ``ip``, if any."""
        value = int(ip)
        for mask, networks in self._by_mask[ip.version].items():
            network = networks.get(value & mask)
            if network is not None:
                return network
        return None


def _unmapped(network: Network) -> Network:
    if isinstance(network, IPv6Network) and network.subnet_of(IPV4_MAPPED):
        prefix = network.prefixlen - IPV4_MAPPED.prefixlen
        return IPv4Network((network.network_address.packed[-4:], prefix))
    return network


def _ip_of(address: Multiaddr) -> IPv4Address | IPv6Address | None:
    for name, value in address:
        if name in {"ip4", "ip6"}:
            assert value is not None
            ip = ip_address(value)
            return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip
    return None
