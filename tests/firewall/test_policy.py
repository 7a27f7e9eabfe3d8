from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from stronghold_p2p.errors import PolicyError, StrongholdError
from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.admission import AdmissionRules
from stronghold_p2p.firewall.ends import Clocks
from stronghold_p2p.firewall.policy import MAX_SIZE, Policy
from stronghold_p2p.firewall.quotas import Limit
from stronghold_p2p.firewall.rules import AppliedRule, Firewall, FirewallRules, Rule
from stronghold_p2p.identity import PeerId

EXAMPLE = Path(__file__).parents[2] / "examples" / "policy.toml"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "FIREWALL.md"

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)

# Always the same, since they are part of parameters: the workers of a parallel run must agree on what these are called.
ALICE = PeerId.parse("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
BOB = PeerId.parse("12D3KooWQYV9dGMFoRzNStwpXztXaBUjtPqi6aU76ZgUriHhKust")


# -- what a file says ----------------------------------------------------------------------------------


def test_the_example() -> None:
    policy = Policy.load(EXAMPLE)
    alice, backup, mallory = policy.names
    (guest,) = policy.groups["guests"]
    assert list(policy.names.values()) == ["alice", "backup server", "mallory"]
    assert policy.rules == FirewallRules(
        inbound=Rule.ASK,
        outbound=Rule.ALLOW_ALL,
        peers={
            alice: (Rule.restricted(allow={"Ping", "Read"}, ask={"Sign"}), None),
            backup: (Rule.ALLOW_ALL, Rule.REJECT_ALL),
            guest: (Rule.restricted(allow={"Ping"}).replace(until=datetime(2030, 1, 1, tzinfo=UTC)), None),
        },
    )
    assert policy.admission == AdmissionRules(
        allow_networks=tuple(map(ip_network, ("10.0.0.0/8", "127.0.0.0/8", "2001:db8::/32"))),
        deny_networks=(ip_network("10.9.0.0/16"),),
        deny_peers=frozenset({PeerId.parse("12D3KooWPMDrvuZoi5RKTLdr8zme1C52E3bWyNdR461LMqghPubU")}),
        banned=frozenset({mallory}),
        may_reserve=frozenset({alice, backup}),
        may_connect=frozenset({alice, backup}),
    )
    assert policy.requests_in_flight == 64
    assert policy.requests_per_second == 20.0
    assert policy.peer_limits == {guest: Limit(per_second=1.0)}
    assert policy.type_limits == {"Sign": Limit(per_second=0.2, max_bytes=4096)}
    assert policy.tests == 2


def test_the_page_of_documentation_shows_the_example() -> None:
    assert f"```toml\n{EXAMPLE.read_text()}```" in DOCUMENTATION.read_text()


def test_what_a_file_leaves_out_stays_open() -> None:
    assert Policy.parse("[default]") == Policy()
    assert Policy() == Policy(
        rules=FirewallRules(inbound=None, outbound=None),
        names={},
        admission=AdmissionRules(),
        requests_in_flight=None,
        requests_per_second=None,
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('"allow"', Rule.ALLOW_ALL),
        ('"reject"', Rule.REJECT_ALL),
        ('"ask"', Rule.ASK),
        ('["Ping"]', Rule.restricted(allow={"Ping"})),
        ('["Read", "Ping"]', Rule.restricted(allow={"Ping", "Read"})),
        ('["ask"]', Rule.restricted(allow={"ask"})),
        ('{ allow = ["Ping"], ask = ["Sign"] }', Rule.restricted(allow={"Ping"}, ask={"Sign"})),
        ('{ reject = ["Sign"], otherwise = "ask" }', Rule.restricted(reject={"Sign"}, otherwise="ask")),
        ('{ otherwise = "ask" }', Rule.ASK),
        ('{ rule = "allow" }', Rule.ALLOW_ALL),
        ('{ rule = "allow", until = 2027-01-01T00:00:00Z }', Rule.ALLOW_ALL.replace(until=NEW_YEAR)),
        ('{ rule = "reject", reasons = true, strict = false }', Rule.REJECT_ALL.replace(reasons=True)),
        (
            '{ allow = ["Ping"], until = 2027-01-01T02:00:00+02:00, strict = true }',
            Rule.restricted(allow={"Ping"}).replace(until=NEW_YEAR, strict=True),
        ),
        ('{ allow = [], otherwise = "reject" }', Rule.REJECT_ALL),
    ],
)
def test_rules(text: str, rule: Rule) -> None:
    assert Policy.parse(f"default.inbound = {text}").rules == FirewallRules(inbound=rule, outbound=None)
    assert Policy.parse(f"default.outbound = {text}").rules == FirewallRules(outbound=rule)
    peers = Policy.parse(f'[peers]\nalice = {{ id = "{ALICE}", outbound = {text} }}').rules.peers
    assert peers == {ALICE: (None, rule)}


def test_a_peer_may_have_nothing_but_a_name() -> None:
    policy = Policy.parse(f'[peers.alice]\nid = "{ALICE}"\nban = false')
    assert policy == Policy(names={ALICE: "alice"})


def test_peer_ids_in_either_form() -> None:
    assert Policy.parse(f'[peers.alice]\nid = "{ALICE.to_cid()}"').names == {ALICE: "alice"}


def test_lists_of_peers_by_name_and_by_id() -> None:
    policy = Policy.parse(f'[peer_ids]\nallow = ["alice", "{BOB}"]\ndeny = ["{ALICE}"]\n[peers.alice]\nid = "{ALICE}"')
    assert policy.admission == AdmissionRules(allow_peers=frozenset({ALICE, BOB}), deny_peers=frozenset({ALICE}))


def test_groups_in_every_list_of_peers() -> None:
    lists = (
        'peer_ids.allow = ["ops"]\npeer_ids.deny = ["ops", "alice"]\nrelay.reserve = ["ops"]\nrelay.connect = ["alice"]'
    )
    policy = Policy.parse(f'{lists}\n[groups]\nops = ["alice", "{BOB}"]\n[peers.alice]\nid = "{ALICE}"')
    both = frozenset({ALICE, BOB})
    assert policy.admission == AdmissionRules(
        allow_peers=both, deny_peers=both, may_reserve=both, may_connect=frozenset({ALICE})
    )


def test_what_a_group_says_holds_for_each_of_its_peers() -> None:
    policy = Policy.parse(
        f"""
        [peers.alice]
        id = "{ALICE}"
        outbound = "reject"
        per_second = 2
        [groups.ops]
        peers = ["alice", "{BOB}"]
        inbound = ["Ping"]
        outbound = "ask"
        ban = true
        relay = "only"
        per_second = 1
        in_flight = 3
        max_bytes = 4
        """
    )
    ping = Rule.restricted(allow={"Ping"})
    assert policy == Policy(
        rules=FirewallRules(outbound=None, peers={ALICE: (ping, Rule.REJECT_ALL), BOB: (ping, Rule.ASK)}),
        names={ALICE: "alice"},
        groups={"ops": frozenset({ALICE, BOB})},
        admission=AdmissionRules(banned=frozenset({ALICE, BOB}), relay_modes={ALICE: "only", BOB: "only"}),
        peer_limits={
            ALICE: Limit(per_second=2.0, in_flight=3, max_bytes=4),
            BOB: Limit(per_second=1.0, in_flight=3, max_bytes=4),
        },
    )
    assert policy.lines[ALICE, "inbound"] == policy.lines[BOB, "inbound"] == 8
    assert (policy.lines[ALICE, "outbound"], policy.lines[BOB, "outbound"]) == (4, 9)


def test_what_a_peer_says_of_itself_goes_before_all_its_groups() -> None:
    groups = f'[groups]\na = {{ peers = ["alice"], ban = true }}\nb = {{ peers = ["{ALICE}"], ban = true }}'
    policy = Policy.parse(f'[peers.alice]\nid = "{ALICE}"\nban = false\n{groups}')
    assert policy.admission.banned == frozenset()


def test_what_a_group_says_holds_again_when_a_peer_s_own_rule_has_ended() -> None:
    peers = f'[peers.alice]\nid = "{ALICE}"\ninbound = {{ rule = "allow", until = 2027-01-01T00:00:00Z }}\n'
    group = '[groups.{}]\npeers = ["alice"]\ninbound = "reject"\n'
    policy = Policy.parse(peers + group.format("ops"))
    assert policy.rules.peers == {ALICE: (Rule.ALLOW_ALL.ending(NEW_YEAR, Rule.REJECT_ALL), None)}
    now = 0.0
    firewall = Firewall(FirewallRules.allow_all(), Clocks(lambda: now, lambda: now))
    firewall.set_policy(policy.rules, policy.rule_lines)
    assert firewall.find(ALICE, Direction.INBOUND).line == 3
    now = NEW_YEAR.timestamp()
    assert firewall.find(ALICE, Direction.INBOUND) == AppliedRule(Rule.REJECT_ALL, "policy peer", None)
    error = error_of(peers + group.format("ops") + group.format("dev"))
    assert (error.line, error.key) == (9, "groups.dev.inbound")


def test_groups_that_say_different_things_of_a_peer() -> None:
    groups = f'[groups]\na = {{ peers = ["{ALICE}"], inbound = "ask" }}\nb = {{ peers = ["{ALICE}"], in_flight = 1 }}'
    policy = Policy.parse(groups)
    assert policy.rules.peers == {ALICE: (Rule.ASK, None)}
    assert policy.peer_limits == {ALICE: Limit(in_flight=1)}


def test_limits_by_type() -> None:
    policy = Policy.parse('[types]\nSign = { per_second = 0.5, max_bytes = 10 }\n"/chat/1.0.0" = { in_flight = 2 }')
    assert policy == Policy(
        type_limits={"Sign": Limit(per_second=0.5, max_bytes=10), "/chat/1.0.0": Limit(in_flight=2)}
    )


def test_approvers() -> None:
    approval = f'[approval]\napprovers = ["ops", "{BOB}"]\nneed = 2\n[groups]\nops = ["{ALICE}"]'
    policy = Policy.parse(approval)
    assert (policy.approvers, policy.need) == (frozenset({ALICE, BOB}), 2)
    assert Policy.parse(f'approval.approvers = ["{ALICE}"]').need == 1


def test_modes() -> None:
    assert Policy.parse('mode = "observe"') == Policy(mode="observe")
    assert Policy.parse('mode = "enforce"') == Policy()


def test_where_it_says_what() -> None:
    policy = Policy.parse(
        f'[default]\ninbound = "ask"\n[default.outbound]\nallow = ["A"]\n[peers.alice]\nid = "{ALICE}"\nban = true'
    )
    assert policy.lines == {(None, "inbound"): 2, (None, "outbound"): 3, (ALICE, "ban"): 7}


def test_relays() -> None:
    policy = Policy.parse(
        f'default.relay = "never"\nnetworks.relayed = "allow"\n[peers.alice]\nid = "{ALICE}"\nrelay = "only"'
    )
    assert policy.admission == AdmissionRules(relayed=True, relay_mode="never", relay_modes={ALICE: "only"})
    assert Policy.parse('networks.relayed = "reject"').admission == AdmissionRules(relayed=False)


@pytest.mark.parametrize("text", ["192.0.2.1", "10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::1", "::ffff:10.0.0.0/104"])
def test_networks(text: str) -> None:
    assert Policy.parse(f'networks.deny = ["{text}"]').admission.deny_networks == (ip_network(text),)


def test_empty_lists_of_what_is_denied() -> None:
    assert Policy.parse("networks.deny = []\npeer_ids.deny = []") == Policy()


@pytest.mark.parametrize("text", ["0.5", "1", "1e9"])
def test_rates(text: str) -> None:
    rate = Policy.parse(f"limits.requests_per_second = {text}").requests_per_second
    assert isinstance(rate, float)
    assert rate == float(text)


# -- what a file is tested for -------------------------------------------------------------------------

TESTED = f"""
[default]
inbound = {{ ask = ["Sign"] }}
[peers]
alice = {{ id = "{ALICE}", inbound = ["Ping"] }}
mallory = {{ id = "{BOB}", ban = true, inbound = "allow" }}
[groups]
all = ["alice", "mallory"]
"""


@pytest.mark.parametrize(
    "test",
    [
        'peer = "alice"\ntype = "Ping"\nexpect = "allow"',
        'peer = "alice"\ntype = "Ping"\ndirection = "inbound"\nexpect = "allow"',
        'peer = "alice"\ntype = "Sign"\nexpect = "reject"',
        'peer = "alice"\nexpect = "reject"',
        f'peer = "{ALICE.to_cid()}"\ntype = "Ping"\nexpect = "allow"',
        'peer = "mallory"\nexpect = "reject"',
        'peer = "mallory"\ndirection = "outbound"\nexpect = "reject"',
        'peer = "all"\ntype = "Sign"\nexpect = "reject"',
        'type = "Sign"\nexpect = "ask"',
        'type = "Ping"\nexpect = "reject"',
    ],
)
def test_a_policy_that_does_what_it_is_tested_for(test: str) -> None:
    assert Policy.parse(f"{TESTED}[[tests]]\n{test}\n[[tests]]\n{test}") == Policy.parse(TESTED)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ('expect = "allow"\npeer = "alice"\ntype = "Sign"', "the test fails: the policy rejects it"),
        ('expect = "reject"\npeer = "alice"\ntype = "Ping"', "the test fails: the policy allows it"),
        ('expect = "allow"\npeer = "mallory"', "the test fails: the policy rejects it"),
        ('expect = "allow"\npeer = "all"\ntype = "Ping"', f"the test fails: the policy rejects it of {BOB}"),
        ('expect = "allow"\ntype = "Sign"', "the test fails: the policy asks"),
        ('expect = "allow"\ndirection = "outbound"', "the test fails: the policy does not decide it"),
    ],
)
def test_a_policy_that_does_something_else(test: str, reason: str) -> None:
    right = '[[tests]]\nexpect = "reject"\npeer = "mallory"\n'
    error = error_of(f"{TESTED}{right}[[tests]]\n{test}\n{right}")
    assert (error.line, error.key, error.reason) == (13, "tests.expect", reason)


def test_who_is_not_on_a_list_of_those_that_are_allowed() -> None:
    lists = f'default.inbound = "allow"\npeer_ids.allow = ["{ALICE}"]\n'
    assert Policy.parse(f'{lists}[[tests]]\nexpect = "reject"\n[[tests]]\npeer = "{ALICE}"\nexpect = "allow"')


def test_tests_of_a_group_are_as_many_as_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stronghold_p2p.firewall.policy_file.tests.MAX_DECISIONS", 4)
    test = '[[tests]]\npeer = "all"\ntype = "Sign"\nexpect = "reject"\n'
    assert Policy.parse(TESTED + 2 * test).tests == 2
    error = error_of(TESTED + 3 * test)
    assert (error.line, error.reason) == (17, "the tests are about over 4 peers in all: name fewer")


def test_a_test_looks_at_no_end() -> None:
    """It would fail some day, and keep a peer from starting."""
    rule = 'default.inbound = { rule = "allow", until = 2001-01-01T00:00:00Z }'
    assert Policy.parse(f'{rule}\n[[tests]]\nexpect = "allow"')


# -- what a file cannot say ----------------------------------------------------------------------------


def error_of(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as raised:
        Policy.parse(text, "p.toml")
    return raised.value


@pytest.mark.parametrize(
    ("text", "line", "key", "reason"),
    [
        # keys
        ("[default]\n\n[defaults]", 3, "defaults", "unknown key; did you mean default?"),
        ("x = 1", 1, "x", "unknown key; known keys are default, peers, groups, types, networks, peer_ids, relay, limits, approval, mode and tests"),
        ('[default]\ninbond = "ask"', 2, "default.inbond", "unknown key; did you mean inbound?"),
        ("[networks]\npeers = []", 2, "networks.peers", "unknown key; known keys are allow, deny and relayed"),
        ("[peer_ids]\nalow = []", 2, "peer_ids.alow", "unknown key; did you mean allow?"),
        ("[limits]\nrequests = 1", 2, "limits.requests", "unknown key; did you mean requests_in_flight?"),
        ("[peers.a]\nban = true\nbanned = true", 3, "peers.a.banned", "unknown key; did you mean ban?"),
        ("[peers]\n'a b' = {x = 1}", 2, 'peers."a b".x',
         "unknown key; known keys are id, inbound, outbound, ban, relay, per_second, in_flight and max_bytes"),
        # tables
        ('# a\ndefault = "ask"', 2, "default", "must be a table, not a string"),
        ("[[default]]", 1, "default", "must be a table, not a list"),
        ("[[peers]]", 1, "peers", "must be a table, not a list"),
        ("[[peers.alice]]", 1, "peers.alice", "must be a table, not a list"),
        ("[peers]\nalice = 2026-01-01", 2, "peers.alice", "must be a table, not a date or time"),
        # rules
        (
            '[default]\ninbound = "alow"',
            2,
            "default.inbound",
            'must be "allow", "reject", "ask", a list of types, or a table of such lists, not \'alow\'',
        ),
        (
            "[default]\noutbound = true",
            2,
            "default.outbound",
            'must be "allow", "reject", "ask", a list of types, or a table of such lists, not true or false',
        ),
        ("[default]\ninbound = []", 2, "default.inbound", 'an empty list lets nothing pass; write "reject"'),
        ('[default]\ninbound = [\n"A",\n1]', 4, "default.inbound", "must be a string, not a whole number"),
        ('[default]\ninbound = [""]', 2, "default.inbound", "a type must have a name"),
        ("[default]\ninbound = {}", 2, "default.inbound", 'it lets nothing pass; write "reject"'),
        ("[default]\ninbound = { allow = [] }", 2, "default.inbound", 'it lets nothing pass; write "reject"'),
        ('[default.inbound]\nalow = ["A"]', 2, "default.inbound.alow", "unknown key; did you mean allow?"),
        ('[default.inbound]\nask = "A"', 2, "default.inbound.ask", "must be a list, not a string"),
        ('[default.inbound]\nallow = ["A"]\nask = ["B",\n"A"]', 4, "default.inbound.ask", "'A' is also in allow"),
        ('[default.inbound]\notherwise = "allow"', 2, "default.inbound.otherwise",
         "must be \"reject\" or \"ask\", not 'allow'"),
        ('[default.inbound]\nrule = "allow"\nask = ["A"]', 3, "default.inbound.ask",
         "rule is about all types: leave out one of the two"),
        ('[default.inbound]\nrule = ["A"]', 2, "default.inbound.rule",
         'must be "allow", "reject" or "ask", not a list'),
        ('[default.inbound]\nrule = "ask"\nstrict = 1', 3, "default.inbound.strict", "must be true or false, not a whole number"),
        ('[default.inbound]\nrule = "ask"\nuntil = "2027-01-01"', 3, "default.inbound.until",
         "must be a date and time with an offset, such as 2027-01-01T00:00:00Z, not '2027-01-01'"),
        ('[default.inbound]\nrule = "ask"\nuntil = 2027-01-01', 3, "default.inbound.until",
         "must be a date and time with an offset, such as 2027-01-01T00:00:00Z, not a date or time"),
        ('[default.inbound]\nrule = "ask"\nuntil = 2027-01-01 00:00:00', 3, "default.inbound.until",
         "must be a date and time with an offset, such as 2027-01-01T00:00:00Z, not one without"),
        ('[default.inbound]\nrule = "ask"\nuntil = 0001-01-01 00:00:00+01:00', 3, "default.inbound.until",
         "must be a date in the years 1 to 9999, in UTC"),
        ('[default.inbound]\nuntil = 2027-01-01 00:00:00Z', 1, "default.inbound", 'it lets nothing pass; write "reject"'),
        ('[default]\ninbound = ["A",\n"A"]', 3, "default.inbound", "'A' is in the list twice"),
        (f'peers.a = {{ id = "{ALICE}", inbound = [["A"]] }}', 1, "peers.a.inbound", "must be a string, not a list"),
        # peers
        ('[peers.a]\ninbound = "ask"', 1, "peers.a", "has no id"),
        ("[peers.a]\nid = 1", 2, "peers.a.id", "must be a string, not a whole number"),
        ('[peers.a]\nid = "12D3KooW"', 2, "peers.a.id", "'12D3KooW' is not a peer id"),
        (f'[peers.a]\nid = "{ALICE}"\nban = "no"', 3, "peers.a.ban", "must be true or false, not a string"),
        (f'[peers.a]\nid = "{ALICE}"\nban = 1', 3, "peers.a.ban", "must be true or false, not a whole number"),
        (f'[peers.a]\nid = "{ALICE}"\n[peers.b]\nid = "{ALICE.to_cid()}"', 4, "peers.b.id", "is also the id of a"),
        (f'[peers.""]\nid = "{ALICE}"', 1, 'peers.""', "a name must be printable text"),
        (f'[peers."\\u001b[1m"]\nid = "{ALICE}"', 1, 'peers."\\u001b[1m"', "a name must be printable text"),
        (f'[peers.{ALICE}]\nid = "{ALICE}"', 1, f"peers.{ALICE}", "a peer id cannot be a name"),
        (f'[peers."/a"]\nid = "{ALICE}"', 1, 'peers."/a"', "a name must not begin with a slash, as an address does"),
        (
            f'[peers.bob]\nid = "{ALICE}"\n[peers.Bob]\nid = "{BOB}"',
            3,
            "peers.Bob",
            "looks like 'bob', which is a name, too",
        ),
        (f'[peers.a]\nid = "{ALICE}"\n[groups]\nA = ["a"]', 4, "groups.A", "looks like 'a', which is a name, too"),
        # networks
        ('networks.allow = "10.0.0.0/8"', 1, "networks.allow", "must be a list, not a string"),
        (
            "[networks]\nallow = []",
            2,
            "networks.allow",
            "an empty list is ambiguous; to allow all, leave the key out",
        ),
        (
            '[networks]\ndeny = [\n  "10.0.0.0/8",  # ]\n  "10.0.0.1/8",\n]',
            4,
            "networks.deny",
            "'10.0.0.1/8' has bits set beyond its prefix; the network is 10.0.0.0/8",
        ),
        ('networks.deny = ["10.0.0.0/8", "10.0.0.0/8"]', 1, "networks.deny", "'10.0.0.0/8' is in the list twice"),
        ("networks.deny = [10]", 1, "networks.deny", "must be a string, not a whole number"),
        # lists of peers
        ("[peer_ids]\nallow = []", 2, "peer_ids.allow", "an empty list is ambiguous; to allow all, leave the key out"),
        ('peer_ids.deny = ["bob"]', 1, "peer_ids.deny", "'bob' is neither a name in [peers] or [groups] nor a peer id"),
        (
            f'peer_ids.deny = ["a",\n"{ALICE}"]\n[peers.a]\nid = "{ALICE}"',
            2,
            "peer_ids.deny",
            f"'{ALICE}' is in the list twice",
        ),
        ("[relay]\nreserve = []", 2, "relay.reserve", "an empty list is ambiguous; to allow all, leave the key out"),
        ('[relay]\nreach = ["a"]', 2, "relay.reach", "unknown key; known keys are reserve and connect"),
        # groups
        ("groups.ops = []", 1, "groups.ops", "a group must have a member"),
        ('[groups]\nops = "alice"', 2, "groups.ops", "must be a list, not a string"),
        ('[groups]\nops = ["bob"]', 2, "groups.ops", "'bob' is neither a name in [peers] nor a peer id"),
        (
            f'[groups]\nops = ["{ALICE}"]\nall = ["ops"]',
            3,
            "groups.all",
            "'ops' is neither a name in [peers] nor a peer id",
        ),
        (f'[groups]\na = ["{ALICE}"]\n[peers.a]\nid = "{ALICE}"', 2, "groups.a", "is also the name of a peer"),
        (f'[groups]\n{ALICE} = ["{ALICE}"]', 2, f"groups.{ALICE}", "a peer id cannot be a name"),
        (f'[groups]\n"\\n" = ["{ALICE}"]', 2, 'groups."\\n"', "a name must be printable text"),
        ("[groups.ops]\nban = true", 1, "groups.ops", "has no peers"),
        ("[groups.ops]\npeers = []", 2, "groups.ops.peers", "a group must have a member"),
        (f'[groups.ops]\npeers = ["{ALICE}"]\nid = "{ALICE}"', 3, "groups.ops.id",
         "unknown key; known keys are peers, inbound, outbound, ban, relay, per_second, in_flight and max_bytes"),
        (
            f'[groups]\na = {{ peers = ["{ALICE}"], inbound = "ask" }}\n[groups.b]\npeers = ["{ALICE}"]\ninbound = "ask"',
            5,
            "groups.b.inbound",
            f"{ALICE} is also in the group a, which has inbound in line 2; give the peer its own in [peers], without an end",
        ),
        # limits by type and by peer
        ("[types.Sign]\nrate = 1", 2, "types.Sign.rate", "unknown key; known keys are per_second, in_flight and max_bytes"),
        ("[types]\nSign = 1", 2, "types.Sign", "must be a table, not a whole number"),
        ("[types]\nSign = {}", 2, "types.Sign", "limits nothing: it needs per_second, in_flight or max_bytes"),
        ('[types.""]\nin_flight = 1', 1, 'types.""', "a type must have a name"),
        ('[types."/chat/1"]\nmax_bytes = 1', 2, 'types."/chat/1".max_bytes', "a stream has no size that is known before"),
        (f'[peers.a]\nid = "{ALICE}"\nmax_bytes = 0', 3, "peers.a.max_bytes", "must be above 0 and at most 1,000,000,000"),
        # approval
        ('[approval]\napprovers = ["bob"]', 2, "approval.approvers",
         "'bob' is neither a name in [peers] or [groups] nor a peer id"),
        ("[approval]\nneed = 1", 2, "approval.need", "more than there are approvers: 0"),
        (f'[approval]\napprovers = ["{ALICE}"]\nneed = 2', 3, "approval.need", "more than there are approvers: 1"),
        # tests
        ('tests = 1', 1, "tests", "must be a list, not a whole number"),
        ('tests = [1]', 1, "tests", "must be a table, not a whole number"),
        ("[[tests]]\nexpect = 'ask'\n[[tests]]\nx = 1", 4, "tests.x", "unknown key; known keys are peer, type, direction and expect"),
        ('[[tests]]\npeer = "a"', 2, "tests.peer", "'a' is neither a name in [peers] or [groups] nor a peer id"),
        ('[[tests]]\ntype = ""\nexpect = "ask"', 2, "tests.type", "a type must have a name"),
        ('[[tests]]\nexpect = "pass"', 2, "tests.expect", "must be \"allow\", \"reject\" or \"ask\", not 'pass'"),
        ('[[tests]]\nexpect = "ask"\ndirection = "both"', 3, "tests.direction",
         "must be \"inbound\" or \"outbound\", not 'both'"),
        ("[[tests]]\ntype = 'A'", 1, "tests", "has no expect"),
        # mode
        ('mode = "log"', 1, "mode", "must be \"enforce\" or \"observe\", not 'log'"),
        # relays
        ('[default]\nrelay = "reject"', 2, "default.relay", 'must be "allow", "never" or "only", not \'reject\''),
        (f'[peers.a]\nid = "{ALICE}"\nrelay = true', 3, "peers.a.relay", 'must be "allow", "never" or "only", not true or false'),
        ('[networks]\nrelayed = "never"', 2, "networks.relayed", 'must be "allow" or "reject", not \'never\''),
        ("[networks]\nrelayed = []", 2, "networks.relayed", 'must be "allow" or "reject", not a list'),
        # limits
        ("[limits]\nrequests_in_flight = true", 2, "limits.requests_in_flight", "must be a whole number, not true or false"),
        ("[limits]\nrequests_in_flight = 1.0", 2, "limits.requests_in_flight", "must be a whole number, not a number"),
        ('[limits]\nrequests_per_second = "1"', 2, "limits.requests_per_second", "must be a number, not a string"),
    ],
)  # fmt: skip
def test_errors(text: str, line: int, key: str, reason: str) -> None:
    error = error_of(text)
    assert (error.path, error.line, error.key, error.reason) == ("p.toml", line, key, reason)
    assert str(error) == f"policy p.toml, line {line}, {key}: {reason}"
    assert isinstance(error, StrongholdError)


@pytest.mark.parametrize("name", ["requests_in_flight", "requests_per_second"])
@pytest.mark.parametrize("value", ["0", "-1", "1_000_000_001", "0x" + "f" * 5000])
def test_limits_that_limit_nothing_or_everything(name: str, value: str) -> None:
    assert error_of(f"[limits]\n{name} = {value}").reason == "must be above 0 and at most 1,000,000,000"


@pytest.mark.parametrize("value", ["0.0", "-0.0", "-1.5", "inf", "-inf", "nan", "1e300"])
def test_rates_that_are_none(value: str) -> None:
    error = error_of(f"[limits]\n\nrequests_per_second = {value}")
    assert (error.line, error.key) == (3, "limits.requests_per_second")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/255.0.0.0",  # as a mask and
        "10.0.0.0/0.255.255.255",  # as its complement, ipaddress takes both
        "10.0.0",
        "fe80::%eth0/64",
        "10.0.0.0/ 8",
        "10.0.0.0/-8",
        "2001:db8::/129",
    ],
)
def test_networks_that_are_none(text: str) -> None:
    error = error_of(f'networks.allow = ["{text}"]')
    assert error.reason == f"'{text}' is not a network, such as 10.0.0.0/8 or 2001:db8::/32"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[default]\ninbound = ask", 2, "not TOML: invalid value, at column 11"),
        ("[default", 1, "not TOML: expected ']' at the end of a table declaration"),
        ("[default]\n\n[default]\n", 3, "not TOML: cannot declare ('default',) twice, at column 9"),
        ('[default]\ninbound = "ask\n\n', 2, "not TOML: illegal character '\\n', at column 15"),
        ('networks.deny = ["10.0.0.0/8",\n\n', 1, "not TOML: invalid value"),
        ("x = " + "1" * 5000, 0, "not TOML: "),
        ("x = " + "[" * 100_000, 0, "nested too deeply"),
        ("\n" + "a." * 20_000 + "b = 1", 2, "a key of more than 32 parts"),
        ("[" + "'a' . " * 20_000 + "b]", 1, "a key of more than 32 parts"),
    ],
    ids=["value", "header", "twice", "string", "end", "number", "nested", "long-key", "long-header"],
)
def test_what_is_no_toml(text: str, line: int, reason: str) -> None:
    error = error_of(text)
    assert (error.line, error.key) == (line, "")
    assert error.reason.startswith(reason)


def test_text_with_many_dots_is_no_long_key() -> None:
    dotted = "a." * 30 + "b"
    policy = Policy.parse(f"# {'.' * 100}\n[default]\ninbound = ['{dotted}']")
    assert policy.rules.inbound == Rule.restricted(allow={dotted})


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_an_empty_file_is_no_policy(text: str) -> None:
    assert str(error_of(text)) == "policy p.toml: says nothing"


# -- files ---------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "policy.toml"
    with pytest.raises(PolicyError, match="no such file or directory") as raised:
        Policy.load(missing)
    assert (raised.value.path, raised.value.line) == (str(missing), 0)
    with pytest.raises(PolicyError, match="is a directory"):
        Policy.load(tmp_path)
    with pytest.raises(PolicyError, match=f"over {MAX_SIZE:,} bytes"):
        Policy.load("/dev/zero")


def test_a_pipe_is_read_where_it_may_be_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    os.mkfifo(path)
    with pytest.raises(PolicyError, match="a pipe, not a file that can be read again"):
        Policy.load(path)
    writing = threading.Thread(target=path.write_text, args=('default.inbound = "ask"',))
    writing.start()
    assert Policy.load(path, wait=True).rules.inbound is Rule.ASK
    writing.join()


def test_a_terminal_where_nothing_is_typed() -> None:
    master, slave = os.openpty()
    with pytest.raises(PolicyError, match="says nothing"):
        Policy.load(os.ttyname(slave))
    os.close(slave)
    os.close(master)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes("[default]\n# grün".encode("latin-1"))
    with pytest.raises(PolicyError, match="not UTF-8") as raised:
        Policy.load(path)
    assert raised.value.line == 2


@pytest.mark.slow
def test_ten_thousand_peers() -> None:
    peers = [str(PeerId(b"\x12\x20" + number.to_bytes(32))) for number in range(10_000)]
    entries = [f'[peers.p{number}]\nid = "{peer}"\ninbound = ["Ping", "Read"]\n' for number, peer in enumerate(peers)]
    start = time.process_time()
    assert len(Policy.parse("\n".join(entries)).names) == 10_000
    error = error_of("\n".join((*entries, "x = 1")))
    assert time.process_time() - start < 20  # 1.5 s here
    assert (error.line, error.key) == (40_001, "peers.p9999.x")


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ({"Ping", "Read"}, "no request has the type 'Pnig'; did you mean 'Ping'?"),
        ({"Write", "Read"}, "no request has the type 'Pnig'; known types are 'Read', 'Write'"),
        (set(), "no request has the type 'Pnig': requests of this peer have no types"),
    ],
)
@pytest.mark.parametrize("by", ["default", "peer"])
def test_a_type_that_no_request_has(by: str, types: set[str], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    peer = f'[peers.alice]\nid = "{ALICE}"\n' if by == "peer" else "[default]\n\n"
    path.write_text(f'{peer}inbound = [\n  "Pnig"\n]')
    assert Policy.load(path) == Policy.parse(path.read_text())
    with pytest.raises(PolicyError) as raised:
        Policy.load(path, types=types)
    error = raised.value
    assert (error.line, error.key, error.reason) == (
        4,
        f"{'peers.alice' if by == 'peer' else 'default'}.inbound",
        reason,
    )
    assert Policy.load(path, types={*types, "Pnig"}) == Policy.load(path)
