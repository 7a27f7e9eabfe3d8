"""A strict rule that another one covers for some time is not in force meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.rules import Firewall, FirewallRules, Rule
from stronghold_p2p.firewall.tenancy import Tenancy
from stronghold_p2p.identity import Keypair

PEER = Keypair.generate().peer_id
LATER = datetime.now(UTC) + timedelta(hours=1)


class _Tenant:
    gone = False

    def evict(self) -> None:
        self.gone = True


def _tenant_after(strict: Rule, then: Rule) -> _Tenant:
    firewall = Firewall(FirewallRules())
    tenancy = Tenancy(firewall)
    firewall.changed = tenancy.rules_changed
    firewall.set_peer_rule(PEER, strict, Direction.INBOUND)
    tenant = _Tenant()
    tenancy.enter(tenant, PEER, Direction.INBOUND, "Sign", strict)
    firewall.set_peer_rule(PEER, then, Direction.INBOUND)
    return tenant


@pytest.mark.parametrize("strict", [Rule.restricted(allow={"Sign"}), Rule.ALLOW_ALL, Rule.ASK])
@pytest.mark.parametrize("cover", [Rule.REJECT_ALL, Rule.restricted(allow={"Ping"})])
def test_what_it_has_let_in_ends(strict: Rule, cover: Rule) -> None:
    strict = strict.replace(strict=True)
    assert _tenant_after(strict, cover.ending(LATER, strict)).gone


def test_another_type_for_some_time_ends_nothing() -> None:
    strict = Rule.ASK.replace(strict=True)
    assert not _tenant_after(strict, strict.lend("Ping", LATER)).gone
