"""Rules, and which of them decides."""

from __future__ import annotations

import logging
from itertools import product
from typing import Any

import pytest
from support.clock import TwoClocks

from stronghold_p2p import Direction, FirewallRules, InvalidAddress, Keypair, Multiaddr, PeerId, Rule
from stronghold_p2p.firewall.rules import AppliedRule, Firewall, RuleInForce, Subject, Verdict

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id
IN, OUT, BOTH = Direction.INBOUND, Direction.OUTBOUND, Direction.BOTH
ALLOW, REJECT, ASK = Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK
PINGS = Rule.restricted(allow={"Ping"})


class Ping: ...


class Read: ...


def subject(kind: str | None = None, *, view: Any = None, direction: Direction = IN) -> Subject:
    return Subject(ALICE, direction, kind, view)


# -- rules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "verdict"), [(ALLOW, Verdict.ALLOW), (REJECT, Verdict.REJECT), (ASK, Verdict.ASK)], ids=repr
)
def test_rules_that_look_at_nothing(rule: Rule, verdict: Verdict) -> None:
    assert rule.verdict(subject()) is rule.verdict(subject("Ping")) is verdict


@pytest.mark.parametrize("allow", [{Ping, Read}, {Ping, "Read"}, ["Ping", "Read"], ("Ping", Read, "Read")])
def test_types_and_their_names(allow: Any) -> None:
    rule = Rule.restricted(allow=allow)
    assert rule == Rule.restricted(allow={"Read", "Ping"})
    assert rule.verdict(subject("Ping")) is rule.verdict(subject("Read")) is Verdict.ALLOW
    for other in ("Write", "ping", "", None):
        assert rule.verdict(subject(other)) is Verdict.REJECT


def test_what_is_iterated_over_once_is_not_lost() -> None:
    once: Any = (name for name in ["Ping"])
    assert Rule.restricted(allow=once) == PINGS


def test_no_type_at_all() -> None:
    assert Rule.restricted(allow=set()).verdict(subject("Ping")) is Verdict.REJECT
    assert Rule.restricted(allow=set()).verdict(subject(None)) is Verdict.REJECT


def test_mixed_by_type() -> None:
    rule = Rule.restricted(allow={Ping, "Status"}, ask={"Sign"}, reject=[Read])
    by_type = {"Ping": Verdict.ALLOW, "Status": Verdict.ALLOW, "Sign": Verdict.ASK, "Read": Verdict.REJECT}
    for kind in (*by_type, "Write", None):
        assert rule.verdict(subject(kind)) is by_type.get(kind or "", Verdict.REJECT)
    careful = Rule.restricted(allow={Ping}, reject={Read}, otherwise="ask")
    assert [careful.verdict(subject(kind)) for kind in ("Ping", "Read", "Write", None)] == [
        Verdict.ALLOW,
        Verdict.REJECT,
        Verdict.ASK,
        Verdict.ASK,
    ]


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        ({"allow": ()}, REJECT),
        ({"reject": {"Ping"}}, REJECT),
        ({"otherwise": "reject"}, REJECT),
        ({"otherwise": "ask"}, ASK),
        ({"ask": {"Ping"}, "otherwise": "ask"}, ASK),
    ],
)
def test_types_that_make_no_difference(arguments: Any, same: Rule) -> None:
    assert Rule.restricted(**arguments) is same  # so the protocol is not even offered


@pytest.mark.parametrize(
    "arguments",
    [
        {"allow": {"Ping"}, "ask": {Ping}},
        {"ask": {"Ping"}, "reject": {"Ping"}},
        {"allow": {"Ping"}, "otherwise": "allow"},
        {"allow": {"Ping"}, "otherwise": None, "ask": {"Ping"}},
    ],
)
def test_types_that_contradict_each_other(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"Ping|otherwise="):
        Rule.restricted(**arguments)


@pytest.mark.parametrize(
    ("rule", "some"),
    [
        (ALLOW, True),
        (REJECT, False),
        (ASK, False),
        (PINGS, True),
        (Rule.restricted(ask={"Sign"}), False),
        (Rule.restricted(allow={"Ping"}, ask={"Sign"}), True),
        (Rule.restricted(max), True),
    ],
)
def test_rules_that_allow_some_without_an_answer(rule: Rule, some: bool) -> None:
    assert rule.allows_some is some


def test_a_predicate_sees_peer_direction_and_view() -> None:
    seen: list[Any] = []

    def predicate(*arguments: Any) -> bool:
        seen.extend(arguments)
        return True

    assert Rule.restricted(predicate).verdict(subject("Ping", view="trimmed", direction=OUT)) is Verdict.ALLOW
    assert seen == [ALICE, OUT, "trimmed"]


@pytest.mark.parametrize("answer", [False, None, 0, 1, "yes", [1], object()])
def test_a_predicate_that_does_not_return_true_rejects(answer: Any) -> None:
    assert Rule.restricted(lambda peer, direction, view: answer).verdict(subject()) is Verdict.REJECT


def test_a_predicate_that_raises_rejects(caplog: pytest.LogCaptureFixture) -> None:
    def predicate(peer: PeerId, direction: Direction, view: Any) -> bool:
        raise LookupError("broken")

    with caplog.at_level(logging.ERROR):
        assert Rule.restricted(predicate).verdict(subject(view="secret")) is Verdict.REJECT
    assert "broken" in caplog.text
    assert "secret" not in caplog.text


async def _asynchronous(peer: PeerId, direction: Direction, view: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {}),
        ((bool,), {"allow": {"Ping"}}),
        ((bool,), {"otherwise": "ask"}),
        ((), {"ask": "Ping"}),
        (("Ping",), {}),
        ((_asynchronous,), {}),
        ((), {"allow": "Ping"}),
        ((), {"allow": {"Ping", 1}}),
        ((), {"allow": b"Ping"}),
        ((), {"allow": 1}),
        ((), {"allow": [["Ping"]]}),
    ],
)
def test_what_is_no_rule(arguments: Any, keywords: Any) -> None:
    with pytest.raises(TypeError):
        Rule.restricted(*arguments, **keywords)


def test_equality_and_hash() -> None:
    def predicate(peer: PeerId, direction: Direction, view: Any) -> bool:
        return True

    rules = [
        ALLOW,
        REJECT,
        ASK,
        PINGS,
        Rule.restricted(allow={"Read"}),
        Rule.restricted(ask={"Ping"}),
        Rule.restricted(allow={"Ping"}, otherwise="ask"),
        Rule.restricted(predicate),
    ]
    assert len(set(rules)) == len(rules)
    assert Rule.restricted(predicate) == Rule.restricted(predicate)
    assert hash(Rule.restricted(predicate)) == hash(Rule.restricted(predicate))
    assert PINGS != "Ping"


def test_as_text() -> None:
    assert [repr(rule) for rule in (ALLOW, REJECT, ASK)] == ["Rule.ALLOW_ALL", "Rule.REJECT_ALL", "Rule.ASK"]
    assert repr(Rule.restricted(allow={"Read", Ping})) == "Rule.restricted(allow={'Ping', 'Read'})"
    mixed = Rule.restricted(allow={"Ping"}, ask={"Sign"}, reject={"Read"}, otherwise="ask")
    assert repr(mixed) == "Rule.restricted(allow={'Ping'}, reject={'Read'}, ask={'Sign'}, otherwise='ask')"
    assert repr(Rule.restricted(max)) == "Rule.restricted(<built-in function max>)"


# -- sets of rules -------------------------------------------------------------------------------------


def test_safe_by_default() -> None:
    assert FirewallRules() == FirewallRules(inbound=None, outbound=ALLOW, peers={})


def test_rules_by_name() -> None:
    assert FirewallRules.allow_all() == FirewallRules(inbound=ALLOW, outbound=ALLOW)
    assert FirewallRules.reject_all() == FirewallRules(inbound=REJECT, outbound=REJECT)
    assert FirewallRules.ask_all() == FirewallRules(inbound=ASK, outbound=ASK)


def test_a_peers_text_names_it_too() -> None:
    assert FirewallRules(peers={str(ALICE): (REJECT, None)}) == FirewallRules(peers={ALICE: (REJECT, None)})
    with pytest.raises(InvalidAddress):
        FirewallRules(peers={"alice": (REJECT, None)})


def test_the_rules_given_and_returned_are_copies() -> None:
    peers: dict[PeerId, Any] = {ALICE: (ALLOW, None)}
    rules = FirewallRules(peers=peers)
    firewall = Firewall(rules)
    peers.clear()
    firewall.set_peer_rule(BOB, ALLOW, BOTH)
    assert rules.peers == {ALICE: (ALLOW, None)}
    with pytest.raises(TypeError):
        firewall.rules.peers[BOB] = (None, None)  # type: ignore[index]
    with pytest.raises(AttributeError):
        rules.inbound = ALLOW  # type: ignore[misc]


# -- which decides -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [IN, OUT])
@pytest.mark.parametrize("layers", list(product([None, REJECT, ALLOW], repeat=4)))
def test_the_first_layer_that_has_a_rule_decides(way: Direction, layers: tuple[Rule | None, ...]) -> None:
    policy_peer, peer, policy_default, default = layers

    def rules(default: Rule | None, own: Rule | None) -> FirewallRules:
        if way is IN:
            return FirewallRules(inbound=default, outbound=None, peers={ALICE: (own, None)})
        return FirewallRules(inbound=None, outbound=default, peers={ALICE: (None, own)})

    firewall = Firewall(rules(default, peer))
    firewall.set_policy(rules(policy_default, policy_peer))
    names = ("policy peer", "peer", "policy default", "default")
    found = [(rule, name) for rule, name in zip(layers, names, strict=True) if rule is not None]
    assert firewall.find(ALICE, way) == AppliedRule(*(found[0] if found else (None, "none")))
    others = [(rule, name) for rule, name in found if "peer" not in name]
    assert firewall.find(BOB, way) == AppliedRule(*(others[0] if others else (None, "none")))
    assert firewall.find(ALICE, BOTH & ~way) == AppliedRule(None, "none")


def test_changes_by_direction() -> None:
    firewall = Firewall(FirewallRules())
    firewall.set_default(ALLOW, BOTH)
    firewall.set_default(None, OUT)
    assert firewall.rules == FirewallRules(inbound=ALLOW, outbound=None)
    firewall.set_peer_rule(ALICE, REJECT, IN)
    firewall.set_peer_rule(ALICE, ALLOW, OUT)
    assert firewall.rules.peers == {ALICE: (REJECT, ALLOW)}
    firewall.set_peer_rule(ALICE, None, IN)
    assert firewall.rules.peers == {ALICE: (None, ALLOW)}
    firewall.set_peer_rule(ALICE, None, BOTH)
    assert firewall.rules.peers == {}
    assert firewall.rules == FirewallRules(inbound=ALLOW, outbound=None)


def test_a_policy_replaces_its_own_layers_only() -> None:
    firewall = Firewall(FirewallRules(inbound=ASK, outbound=None, peers={ALICE: (PINGS, None)}))
    before = firewall.rules
    firewall.set_policy(FirewallRules(inbound=REJECT, outbound=None, peers={ALICE: (ALLOW, None), BOB: (None, ASK)}))
    assert firewall.rules == before
    assert firewall.find(ALICE, IN) == AppliedRule(ALLOW, "policy peer")
    assert firewall.find(BOB, IN) == AppliedRule(REJECT, "policy default")
    firewall.set_policy(FirewallRules(inbound=None, outbound=REJECT))
    assert firewall.find(ALICE, IN) == AppliedRule(PINGS, "peer")
    assert firewall.find(BOB, IN) == AppliedRule(ASK, "default")
    assert firewall.find(BOB, OUT) == AppliedRule(REJECT, "policy default")


def test_who_is_told_of_a_change() -> None:
    firewall = Firewall(FirewallRules(peers={ALICE: (ALLOW, ALLOW)}))
    told: list[PeerId | None] = []
    firewall.changed = told.append
    firewall.set_default(ALLOW, IN)
    firewall.set_peer_rule(BOB, ALLOW, BOTH)
    firewall.set_policy(FirewallRules())
    assert told == [None, BOB, None]


NO_RULES: list[Any] = ["allow", lambda peer, direction, view: True, True]


@pytest.mark.parametrize("no_rule", NO_RULES)
def test_what_is_no_rule_is_not_taken_for_one(no_rule: Any) -> None:
    """It would fail at a remote's request."""
    firewall = Firewall(FirewallRules())
    with pytest.raises(TypeError):
        firewall.set_default(no_rule, BOTH)
    with pytest.raises(TypeError):
        firewall.set_peer_rule(ALICE, no_rule, BOTH)
    with pytest.raises(TypeError):
        Firewall(FirewallRules(inbound=no_rule))
    assert firewall.rules == FirewallRules()


@pytest.mark.parametrize(
    "peers",
    [
        {object(): (Rule.REJECT_ALL, None)},
        {Multiaddr.parse(f"/p2p/{ALICE}"): (Rule.REJECT_ALL, None)},
        {ALICE: Rule.REJECT_ALL},
        {ALICE: (Rule.REJECT_ALL,)},
        {ALICE: ("reject", None)},
    ],
)
def test_rules_that_could_never_apply_are_refused(peers: Any) -> None:
    with pytest.raises(TypeError):
        FirewallRules(peers=peers)


def test_a_type_that_no_request_has_is_refused() -> None:
    """Its rule would reject in silence."""
    firewall = Firewall(FirewallRules(inbound=PINGS))
    firewall.limit_types(None)
    firewall.limit_types(frozenset({"Ping", "Read"}))
    misspelt = Rule.restricted(allow={"Ping", "Raed"})
    refusal = pytest.raises(TypeError, match="no request has the type 'Raed'; did you mean 'Read'")
    with refusal:
        firewall.set_default(misspelt, OUT)
    with refusal:
        firewall.set_peer_rule(ALICE, misspelt, IN)
    for rules in FirewallRules(outbound=misspelt), FirewallRules(peers={ALICE: (None, misspelt)}):
        with refusal:
            firewall.check(rules)
    assert firewall.rules == FirewallRules(inbound=PINGS)
    firewall.set_peer_rule(ALICE, Rule.restricted(allow=()), IN)  # it says on its face that nothing passes
    with pytest.raises(TypeError, match="'Ping': requests of this peer have no types"):
        firewall.limit_types(frozenset())


def test_a_rule_that_was_kept_holds_whatever_its_types(caplog: pytest.LogCaptureFixture) -> None:
    firewall = Firewall(FirewallRules(inbound=ALLOW))
    firewall.limit_types(frozenset({"Read"}))
    firewall.restore_peer_rule(ALICE, Rule.restricted(allow={"Read"}), OUT)
    assert not caplog.records
    firewall.restore_peer_rule(ALICE, PINGS, IN)
    assert firewall.find(ALICE, IN).rule is PINGS
    assert f"stored rule {PINGS} for {ALICE}: no request has the type 'Ping'" in caplog.text


def test_a_direction_is_no_text() -> None:
    with pytest.raises(TypeError):
        Firewall(FirewallRules()).set_default(ALLOW, "inbound")  # type: ignore[arg-type]


# -- ends ----------------------------------------------------------------------------------------------

HOUR = 3600.0


@pytest.fixture
def time() -> TwoClocks:
    return TwoClocks()


def dated(time: TwoClocks, rules: FirewallRules = FirewallRules(outbound=None)) -> tuple[Firewall, list[object]]:  # noqa: B008
    """A firewall, and what it tells."""
    firewall = Firewall(rules, time.clocks)
    told: list[object] = []
    firewall.changed = told.append
    firewall.ended = told.append
    return firewall, told


def until(time: TwoClocks, rule: Rule, seconds: float = HOUR) -> Rule:
    return rule.replace(until=time.after(seconds))


def test_a_rule_that_has_ended_is_found_no_more(time: TwoClocks) -> None:
    """Whether a timer has come that far or not."""
    for looks in (False, True):
        firewall, _ = dated(time, FirewallRules(inbound=ASK, peers={ALICE: (until(time, ALLOW), ALLOW)}))
        time.go(HOUR - 1)
        firewall.expire()
        assert firewall.find(ALICE, IN) == AppliedRule(until(time, ALLOW, 1), "peer")
        time.go(1)
        if looks:
            firewall.expire()
        assert firewall.find(ALICE, IN) == AppliedRule(ASK, "default")
        assert firewall.peer_rule(ALICE, IN) is None
        assert firewall.rules == FirewallRules(inbound=ASK, peers={ALICE: (None, ALLOW)})


def test_every_layer_ends_by_itself(time: TwoClocks) -> None:
    own = {ALICE: (until(time, ASK, 2), None)}
    firewall, _ = dated(time, FirewallRules(inbound=until(time, PINGS, 4), outbound=None, peers=own))
    firewall.set_policy(
        FirewallRules(inbound=until(time, REJECT, 3), outbound=None, peers={ALICE: (until(time, ALLOW, 1), None)}),
        {(ALICE, IN): 7, (None, IN): 3, (ALICE, OUT): 1},
    )
    found = []
    for _ in range(5):
        found.append((firewall.find(ALICE, IN), firewall.find(BOB, IN)))
        time.go(1)
    alice, bob = zip(*((alice[1:], bob[1:]) for alice, bob in found), strict=True)
    assert alice == (("policy peer", 7), ("peer", None), ("policy default", 3), ("default", None), ("none", None))
    assert bob == (("policy default", 3),) * 3 + (("default", None), ("none", None))
    assert firewall.rules == FirewallRules(outbound=None)


def test_what_an_answer_covered_comes_back(time: TwoClocks) -> None:
    firewall, told = dated(time)
    signs = Rule.restricted(allow={"Ping"}, ask={"Sign"})
    firewall.set_peer_rule(ALICE, signs.lend("Sign", time.after(1)).lend("Ping", None), IN)
    assert firewall.find(ALICE, IN).rule == Rule.restricted(allow={"Ping", "Sign"}).replace(until=time.after(1)).ending(
        time.after(1), signs
    )
    time.go(1)
    assert firewall.find(ALICE, IN) == AppliedRule(signs, "peer")
    assert firewall.peer_rule(ALICE, IN) == signs
    firewall.expire()
    assert told == [ALICE, ALICE, {(ALICE, IN): time.wall}]


def test_who_is_told_of_an_end(time: TwoClocks) -> None:
    firewall, told = dated(time)
    firewall.set_default(until(time, ASK, 1), OUT)
    firewall.set_policy(FirewallRules(outbound=until(time, ASK, 2), peers={BOB: (until(time, ALLOW, 3), None)}))
    firewall.set_peer_rule(ALICE, until(time, ALLOW, 4), BOTH)
    firewall.set_peer_rule(BOB, until(time, ALLOW, 4), IN)
    firewall.set_peer_rule(ALICE, until(time, ALLOW, 5), IN)
    end = time.wall + 4
    told.clear()
    by_second: list[list[object]] = []
    for _ in range(6):
        firewall.expire()
        firewall.expire()
        by_second.append(list(told))
        told.clear()
        time.go(1)
    assert by_second == [
        [],
        [None],
        [None],
        [BOB],
        [None, {(ALICE, OUT): end, (BOB, IN): end}],
        [ALICE, {(ALICE, IN): end + 1}],
    ]
    assert firewall.seconds_left is None


def test_a_timer_is_wanted_while_there_are_ends(time: TwoClocks) -> None:
    firewall, _ = dated(time)
    wanted: list[float | None] = []
    firewall.dated = lambda: wanted.append(firewall.seconds_left)
    firewall.set_peer_rule(BOB, PINGS, BOTH)
    assert firewall.seconds_left is None
    firewall.set_peer_rule(ALICE, until(time, ALLOW, 5), IN)
    firewall.set_default(until(time, ALLOW, 3), IN)
    assert wanted == [5, 3]
    firewall.set_default(None, IN)
    firewall.set_peer_rule(ALICE, None, BOTH)
    assert firewall.seconds_left is None


def test_a_policy_that_is_loaded_again_brings_nothing_back(time: TwoClocks) -> None:
    """Not even when the clock was set back: the same date has come before."""
    firewall, _ = dated(time)
    policy = FirewallRules(inbound=until(time, ALLOW, 10), outbound=None, peers={ALICE: (until(time, ALLOW, 5), None)})
    firewall.set_policy(policy)
    time.go(7)
    firewall.expire()
    time.wall -= 24 * HOUR
    firewall.set_policy(policy)
    assert firewall.find(ALICE, IN).layer == "policy default"
    time.go(3)
    assert firewall.find(ALICE, IN).layer == "none"
    firewall.expire()
    firewall.set_policy(policy)
    assert firewall.find(BOB, IN).layer == "none"
    firewall.set_policy(FirewallRules(outbound=None))
    assert firewall.seconds_left is None


def test_a_rule_that_had_ended_before_it_is_set(time: TwoClocks) -> None:
    """As one from a state file, after a restart: it is told, so that it leaves the file."""
    firewall, told = dated(time)
    firewall.restore_peer_rule(ALICE, until(time, ALLOW, -HOUR), IN)
    assert firewall.find(ALICE, IN).layer == "none"
    assert firewall.seconds_left == 0
    firewall.expire()
    assert told == [ALICE, ALICE, {(ALICE, IN): time.wall - HOUR}]
    assert firewall.seconds_left is None


def test_an_end_so_many_seconds_from_now(time: TwoClocks) -> None:
    firewall, _ = dated(time)
    assert firewall.in_seconds(HOUR) == time.after(HOUR)
    for seconds in (0, -1, float("nan"), float("inf"), 1e12):
        with pytest.raises(ValueError, match=f"{seconds!r}"):
            firewall.in_seconds(seconds)


def test_types_that_come_back_are_checked_too(time: TwoClocks) -> None:
    firewall, _ = dated(time)
    firewall.limit_types(frozenset({"Ping"}))
    with pytest.raises(TypeError, match="'Pong'"):
        firewall.set_peer_rule(ALICE, PINGS.ending(time.after(1), Rule.restricted(allow={"Pong"})), IN)
    firewall.set_peer_rule(ALICE, Rule.restricted(allow={"Ping", "/chat/1.0.0"}), IN)  # a stream's


def test_suspended_every_request_is_rejected_whatever_the_rules() -> None:
    told: list[PeerId | None] = []
    firewall = Firewall(FirewallRules(inbound=ALLOW, peers={ALICE: (ASK, None)}))
    firewall.changed = told.append
    firewall.suspend()
    firewall.set_peer_rule(BOB, ALLOW, BOTH)
    firewall.set_policy(FirewallRules(inbound=ALLOW, outbound=ALLOW))
    for peer in (ALICE, BOB):
        assert firewall.find(peer, IN) == firewall.find(peer, OUT) == AppliedRule(REJECT, "suspended")
    assert firewall.rules.peers == {ALICE: (ASK, None), BOB: (ALLOW, ALLOW)}
    firewall.suspend()
    firewall.resume()
    assert firewall.find(BOB, IN) == AppliedRule(ALLOW, "peer")
    assert firewall.find(ALICE, IN) == AppliedRule(ASK, "peer")
    assert firewall.find(ALICE, OUT) == AppliedRule(ALLOW, "policy default")
    assert told == [None, BOB, None, None, None]


def test_each_rule_that_is_set_is_told(time: TwoClocks) -> None:
    told: list[tuple[PeerId | None, Direction, Rule | None]] = []
    firewall, _ = dated(time)
    firewall.rule_set = lambda *change: told.append(change)
    firewall.set_default(ASK, OUT)
    firewall.set_peer_rule(ALICE, ending := until(time, ALLOW, 1), BOTH)
    firewall.restore_peer_rule(BOB, None, IN)
    firewall.set_policy(FirewallRules(peers={BOB: (until(time, ALLOW, 1), None)}))
    time.go(1)
    firewall.expire()
    assert told[:3] == [(None, OUT, ASK), (ALICE, BOTH, ending), (BOB, IN, None)]
    assert {*told[3:]} == {(ALICE, IN, None), (ALICE, OUT, None)}


def test_what_is_in_force_is_what_decides(time: TwoClocks) -> None:
    own = {ALICE: (until(time, ALLOW), None), BOB: (PINGS, REJECT)}
    firewall, _ = dated(time, FirewallRules(inbound=ASK, outbound=None, peers=own))
    firewall.set_policy(FirewallRules(outbound=ALLOW, peers={BOB: (REJECT, None)}), {(BOB, IN): 7})
    assert [*firewall.in_force(None)] == [
        RuleInForce(None, IN, ASK, "default", None),
        RuleInForce(ALICE, IN, until(time, ALLOW), "peer", None),
        RuleInForce(BOB, IN, REJECT, "policy peer", 7),
        RuleInForce(None, OUT, ALLOW, "policy default", None),
        RuleInForce(BOB, OUT, REJECT, "peer", None),
    ]
    assert [its.peer for its in firewall.in_force(2)] == [None, ALICE, None, BOB]
    for its in firewall.in_force(None):
        assert its.peer is None or its[2:] == firewall.find(its.peer, its.direction)
    time.go(HOUR)
    assert ALICE not in {its.peer for its in firewall.in_force(None)}
    firewall.suspend()
    assert [its[1:] for its in firewall.in_force(None)] == [(way, REJECT, "suspended", None) for way in (IN, OUT)]
