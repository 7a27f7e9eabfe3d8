"""Admission: with whom there may be connections, by which paths, and whom a relay of ours serves. Pure decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal, TypeAlias

from ..frozen import FrozenDict
from ..identity import PeerId
from ..multiaddr import Ip, Multiaddr, ip_of

__all__ = ["Admission", "AdmissionRules", "Network", "RelayMode"]

Network: TypeAlias = IPv4Network | IPv6Network

RelayMode: TypeAlias = Literal["allow", "never", "only"]
"""Whether a relay may join us with a peer; ``"only"``: and nothing else may."""

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
    relayed: bool | None = None
    """Whether relayed connections may come and go. None: unless there is a list of allowed networks."""
    relay_mode: RelayMode | None = None
    """That of peers without one of their own."""
    relay_modes: Mapping[PeerId, RelayMode] = field(default_factory=dict)
    may_reserve: frozenset[PeerId] | None = None
    """Who may reserve at our relay, and so be reached through it. None: everybody."""
    may_connect: frozenset[PeerId] | None = None
    """Who may connect to those. None: everybody."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "relay_modes", FrozenDict(self.relay_modes))

    def refusal_of_peer(self, peer: PeerId | None) -> str | None:
        """The reason to refuse ``peer`` (None: one that is in none of the lists); None to admit it."""
        if peer in self.banned:
            return "the policy bans it"
        if peer in self.deny_peers:
            return "the policy denies it"
        if self.allow_peers and peer not in self.allow_peers:
            return "it is not among the peers that the policy allows"
        return None


class Admission:
    """Decides about connections by address and by peer, in both directions.

    Bans from calls (:meth:`ban`) and from a policy are independent. All other rules come from the policy.
    """

    def __init__(self) -> None:
        self.is_relay: Callable[[PeerId], bool] = lambda peer: False
        """Whether a peer forwards for us now: it is connected directly, whatever its :data:`RelayMode`."""
        self._banned: set[PeerId] = set()
        self._relay_mode: RelayMode | None = None
        self._relay_modes: dict[PeerId, RelayMode] = {}
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

    def set_relay_mode(self, peer: PeerId | None, mode: RelayMode | None) -> None:
        """Sets that of ``peer``, or, by None, of all without one of their own; None removes it. A policy goes before."""
        if peer is None:
            self._relay_mode = mode
        elif mode is None:
            self._relay_modes.pop(peer, None)
        else:
            self._relay_modes[peer] = mode

    def relay_mode(self, peer: PeerId) -> RelayMode:
        """The one in force for ``peer``: its own in the policy, its own, the policy's default, ours."""
        policy = self._policy
        own = None
        if self._policy_relay_modes or self._relay_modes:  # else no peer has one, and each connection asks
            own = self._policy_relay_modes.get(peer) or self._relay_modes.get(peer)
        return own or policy.relay_mode or self._relay_mode or "allow"

    def may_connect_directly(self, peer: PeerId) -> bool:
        """Whether ``peer`` may be dialed directly, told our direct addresses, and met by a hole punch."""
        return self.relay_mode(peer) != "only"

    def may_reserve(self, peer: PeerId) -> bool:
        """Whether the policy lets ``peer`` reserve at our relay, and so be reached through it."""
        return self._policy.may_reserve is None or peer in self._policy.may_reserve

    def may_connect(self, peer: PeerId) -> bool:
        """Whether the policy lets ``peer`` connect to others through our relay."""
        return self._policy.may_connect is None or peer in self._policy.may_connect

    def set_policy(self, rules: AdmissionRules) -> None:
        """Replaces the rules of the policy only."""
        self._policy = rules
        self._policy_relay_modes = dict(rules.relay_modes)
        self._allow_networks = _NetworkSet(rules.allow_networks)
        self._deny_networks = _NetworkSet(rules.deny_networks)
        self._limits_networks = bool(rules.allow_networks or rules.deny_networks)
        self._limits_peers = bool(rules.allow_peers or rules.deny_peers or rules.banned)

    def refusal_of_address(self, address: Multiaddr, peer: PeerId | None = None) -> str | None:
        """The reason to refuse ``address``, where ``peer`` is if it is known; None to admit it.

        The network of a relayed address is the relay's. Host names are admitted, and checked after resolution; but whoever
        may not be dialed directly, has no host name looked up either. A ``/dnsaddr`` may lead to a relay.
        """
        relayed = address.is_relayed
        if peer is not None and (mode := self.relay_mode(peer)) != "allow":
            if mode == "never" and relayed:
                return "no relay may join us with it"
            direct = not relayed and address.components[0][0] != "dnsaddr"
            if mode == "only" and direct and not self.is_relay(peer):
                return "only a relay may join us with it"
        policy = self._policy
        if relayed and policy.relayed is False:
            return "it is relayed, which the policy rejects"
        if relayed and policy.allow_networks and policy.relayed is None:
            # Else an allowed relay would let in whomever it likes.
            return "it is relayed, and the policy has an allow list of networks"
        if not self._limits_networks:
            return None
        ip = next((ip for component in address if (ip := ip_of(*component)) is not None), None)
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
        if self._banned and peer in self._banned:
            return "it is banned"
        return self._policy.refusal_of_peer(peer) if self._limits_peers else None


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

    def find(self, ip: Ip) -> Network | None:
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
