"""What strict rules have let in, and when it has to go."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..events import Direction
from ..identity import PeerId
from .rules import Firewall, Rule, Verdict

__all__ = ["Tenancy", "Tenant"]


class Tenant(Protocol):
    """A request that is being answered, or a stream."""

    def evict(self) -> None:
        """Ends it: what let it in no longer does."""


class _Lease(NamedTuple):
    direction: Direction
    type: str | None
    rule: Rule


class Tenancy:
    """Ends what a strict rule has let in once that rule is no longer in force, unless the one that is allows it by itself: an
    approval ends with the rule that asked for it. Rules with a predicate are not asked again.

    It holds nothing by itself: whoever has a tenant names it from its beginning to its end.
    """

    def __init__(self, firewall: Firewall) -> None:
        self.tenants: dict[PeerId, dict[Tenant, _Lease]] = {}
        """By peer. Empty, so that asking costs nothing, while no rule is strict."""
        self._firewall = firewall

    def enter(self, tenant: Tenant, peer: PeerId, direction: Direction, type_name: str | None, rule: Rule) -> None:
        """A strict rule has let it in."""
        self.tenants.setdefault(peer, {})[tenant] = _Lease(direction, type_name, rule)

    def leave(self, tenant: Tenant, peer: PeerId) -> None:
        """It has ended; whoever never entered is ignored."""
        own = self.tenants.get(peer, {})
        own.pop(tenant, None)
        if not own:
            self.tenants.pop(peer, None)

    def rules_changed(self, peer: PeerId | None) -> None:
        """Evicts whom the rules for ``peer`` no longer allow; None: for all peers."""
        for each in list(self.tenants) if peer is None else [peer]:
            for tenant, lease in list(self.tenants.get(each, {}).items()):
                if not _holds(lease, self._firewall.find(each, lease.direction).rule):
                    self.leave(tenant, each)
                    tenant.evict()


def _holds(lease: _Lease, rule: Rule | None) -> bool:
    """Whether a lease holds under the rule that is in force."""
    if rule is None:
        return False
    return rule.contains(lease.rule) or (rule.predicate is None and rule.verdict_on(lease.type) is Verdict.ALLOW)
