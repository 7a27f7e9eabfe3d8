"""What strict rules have let in, and when it has to go."""

from __future__ import annotations

import pytest
from support.clock import TwoClocks

from stronghold_p2p import Direction, FirewallRules, Keypair, Rule
from stronghold_p2p.firewall.rules import Firewall
from stronghold_p2p.firewall.tenancy import Tenancy

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id
IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ALLOW, REJECT, ASK = (rule.replace(strict=True) for rule in (Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK))
SIGN = Rule.restricted(allow={"Ping"}, ask={"Sign"}).replace(strict=True)


class Guest:
    """A request that notes whether it was ended."""

    def __init__(self) -> None:
        self.evicted = 0

    def evict(self) -> None:
        self.evicted += 1


class House:
    """A firewall, and whom its strict rules have let in."""

    def __init__(self, inbound: Rule | None, own: Rule | None = None) -> None:
        self.time = TwoClocks()
        rules = FirewallRules(inbound=inbound, outbound=None, peers={ALICE: (own, own)})
        self.firewall = Firewall(rules, self.time.clocks)
        self.tenancy = Tenancy(self.firewall)
        self.firewall.changed = self.tenancy.rules_changed

    def let_in(self, type_name: str | None, way: Direction = IN) -> Guest:
        rule = self.firewall.find(ALICE, way).rule
        assert rule is not None
        assert rule.strict
        guest = Guest()
        self.tenancy.enter(guest, ALICE, way, type_name, rule)
        return guest


@pytest.mark.parametrize(
    ("before", "after", "stays"),
    [
        (ALLOW, None, False),
        (ALLOW, REJECT, False),
        (ALLOW, ASK, False),
        (ALLOW, Rule.ALLOW_ALL, True),  # it allows it by itself
        (ALLOW, SIGN, False),
        (SIGN, SIGN.replace(reasons=True), True),
        (SIGN, ALLOW, True),
        (SIGN, Rule.ASK, False),
        (ASK, Rule.ASK, False),
        (ASK, ASK.allowing("Ping"), True),
        (ASK, ASK.allowing("Sign"), True),
        (SIGN, SIGN.allowing("Sign"), True),
        (SIGN.allowing("Sign"), SIGN, False),
        (SIGN.allowing("Sign"), Rule.restricted(max), False),
    ],
    ids=repr,
)
def test_whoever_the_rules_no_longer_allow_has_to_go(before: Rule, after: Rule | None, stays: bool) -> None:
    house = House(None, before)
    guest = house.let_in("Sign")
    house.firewall.set_peer_rule(ALICE, after, IN)
    assert guest.evicted == (not stays)
    house.firewall.set_peer_rule(ALICE, None, IN)
    assert guest.evicted == 1
    assert not house.tenancy.tenants


def test_they_go_when_their_rule_ends() -> None:
    house = House(Rule.restricted(allow={"Ping"}))
    house.firewall.set_peer_rule(ALICE, ALLOW.replace(until=house.time.after(10)), IN)
    sign, ping = house.let_in("Sign"), house.let_in("Ping")
    house.time.go(9)
    house.firewall.expire()
    assert not sign.evicted
    house.time.go(1)
    house.firewall.expire()
    assert (sign.evicted, ping.evicted) == (1, 0)  # the default allows the other


def test_they_go_when_what_was_lent_has_to_be_given_back() -> None:
    house = House(None, SIGN)
    approved = house.let_in("Sign")
    house.firewall.set_peer_rule(ALICE, SIGN.lend("Sign", house.time.after(10)), IN)
    lent = house.let_in("Sign")
    house.time.go(10)
    house.firewall.expire()
    assert (approved.evicted, lent.evicted) == (0, 1)  # what was approved by itself goes on as before


def test_a_rule_of_another_layer_goes_before() -> None:
    house = House(ALLOW)
    guest = house.let_in("Sign")
    house.firewall.set_policy(FirewallRules(inbound=SIGN, outbound=None))
    assert guest.evicted
    ping = house.let_in("Ping")
    house.firewall.set_policy(FirewallRules(inbound=Rule.REJECT_ALL, outbound=None))
    assert ping.evicted


def test_others_are_not_concerned() -> None:
    house = House(None, SIGN)
    guest, outbound = house.let_in(None), house.let_in(None, OUT)
    house.firewall.set_peer_rule(BOB, Rule.REJECT_ALL, Direction.BOTH)
    house.firewall.set_default(Rule.REJECT_ALL, Direction.BOTH)
    assert not guest.evicted
    house.firewall.set_peer_rule(ALICE, Rule.REJECT_ALL, OUT)
    assert (guest.evicted, outbound.evicted) == (0, 1)


def test_whoever_has_left_is_forgotten() -> None:
    house = House(ALLOW)
    guest, other = house.let_in("Sign"), house.let_in("Ping")
    house.tenancy.leave(guest, ALICE)
    house.tenancy.leave(guest, ALICE)
    house.tenancy.leave(guest, BOB)
    house.firewall.set_default(None, IN)
    assert (guest.evicted, other.evicted) == (0, 1)
    assert not house.tenancy.tenants


def test_a_predicate_is_not_asked_again() -> None:
    asked: list[object] = []

    def predicate(*arguments: object) -> bool:
        asked.append(arguments)
        return True

    house = House(Rule.restricted(predicate).replace(strict=True))
    guest = house.let_in("Sign")
    house.firewall.set_default(Rule.restricted(predicate).replace(strict=True), IN)
    assert guest.evicted == 0
    house.firewall.set_default(Rule.restricted(predicate), IN)
    assert guest.evicted == 1
    assert not asked
