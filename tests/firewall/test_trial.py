"""A policy on trial: what it would decide, compared with what is decided."""

from __future__ import annotations

import logging
from ipaddress import ip_network

import pytest

from stronghold_p2p import Direction, FirewallRules, Keypair, Multiaddr, PeerId, Rule
from stronghold_p2p.firewall.admission import AdmissionRules
from stronghold_p2p.firewall.ends import Clocks
from stronghold_p2p.firewall.policy import Policy
from stronghold_p2p.firewall.rules import AppliedRule
from stronghold_p2p.firewall.trial import Trial

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id
IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
CODE, ANSWER = AppliedRule(Rule.ALLOW_ALL, "default"), AppliedRule(Rule.ALLOW_ALL, "peer")
PINGS = Rule.restricted(allow={"Ping"}, ask={"Sign"})
POLICY = f"""
[default]
inbound = {{ allow = ["Ping"], ask = ["Sign"] }}
[peers.bob]
id = "{BOB}"
inbound = "reject"
"""


def on_trial(text: str = POLICY, clocks: Clocks = Clocks()) -> Trial:  # noqa: B008 - it is immutable
    policy = Policy.parse(text)
    return Trial(policy.rules, policy.rule_lines, policy.admission, clocks)


@pytest.mark.parametrize(
    ("peer", "type_name", "applied", "expected"),
    [
        (ALICE, "Ping", CODE, True),
        (ALICE, "Read", CODE, False),
        (ALICE, None, CODE, False),
        (ALICE, "Sign", CODE, None),
        (ALICE, "Read", ANSWER, True),  # which goes before the policy's default
        (BOB, "Ping", CODE, False),
        (BOB, "Ping", ANSWER, False),  # which the policy's rule of the peer goes before
    ],
)
def test_what_it_would_have_decided(
    peer: PeerId, type_name: str | None, applied: AppliedRule, expected: bool | None
) -> None:
    found = on_trial().observe(peer, IN, type_name, ADDRESS, applied, allowed=True, asked=False)
    assert found is expected


def test_what_is_suspended_stays_rejected() -> None:
    suspended = AppliedRule(Rule.REJECT_ALL, "suspended")
    assert on_trial().observe(ALICE, IN, "Ping", ADDRESS, suspended, allowed=False, asked=False) is False


@pytest.mark.parametrize("allowed", [True, False])
def test_where_it_says_nothing_the_decision_stays_as_it_is(allowed: bool) -> None:
    assert on_trial().observe(BOB, OUT, "Ping", ADDRESS, CODE, allowed=allowed, asked=True) is allowed


@pytest.mark.parametrize(
    "admission",
    [
        AdmissionRules(banned=frozenset({ALICE})),
        AdmissionRules(allow_peers=frozenset({BOB})),
        AdmissionRules(deny_networks=(ip_network("192.0.2.0/24"),)),
        AdmissionRules(relay_mode="only"),
    ],
)
def test_a_peer_that_it_would_not_let_connect(admission: AdmissionRules) -> None:
    trial = Trial(FirewallRules.allow_all(), {}, admission)
    assert trial.observe(ALICE, IN, "Ping", ADDRESS, CODE, allowed=True, asked=False) is False


def test_a_peer_that_is_not_connected_yet() -> None:
    trial = Trial(FirewallRules.allow_all(), {}, AdmissionRules(deny_networks=(ip_network("0.0.0.0/0"),)))
    assert trial.observe(ALICE, OUT, "Ping", None, CODE, allowed=True, asked=False) is True


def test_its_rules_end_as_they_would() -> None:
    now = 0.0
    text = 'default.inbound = { rule = "reject", until = 1970-01-01T00:01:00Z }'
    trial = on_trial(text, Clocks(lambda: now, lambda: now))
    assert trial.observe(ALICE, IN, None, ADDRESS, CODE, allowed=True, asked=False) is False
    now = 60.0
    assert trial.observe(ALICE, IN, None, ADDRESS, CODE, allowed=True, asked=False) is True


@pytest.mark.parametrize(
    ("type_name", "allowed", "asked", "line"),
    [
        ("Ping", True, False, None),
        ("Ping", False, False, "of type 'Ping' was rejected; the policy on trial would have let it pass (line 3)"),
        ("Read", False, True, None),
        ("Read", True, True, "of type 'Read' passed; the policy on trial would have rejected it (line 3)"),
        ("Sign", True, True, None),
        ("Sign", False, True, None),
        ("Sign", True, False, "of type 'Sign' passed; the policy on trial would have asked (line 3)"),
        ("\u202e\n", True, False, r"of type '\u202e\n' passed; the policy on trial would have rejected it (line 3)"),
    ],
)
def test_what_differs_is_logged(
    type_name: str, allowed: bool, asked: bool, line: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    on_trial().observe(ALICE, IN, type_name, ADDRESS, CODE, allowed=allowed, asked=asked)
    assert [record.getMessage() for record in caplog.records] == (
        [] if line is None else [f"a request from {ALICE} {line}"]
    )
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}


def test_a_type_as_long_as_its_sender_likes(caplog: pytest.LogCaptureFixture) -> None:
    on_trial().observe(ALICE, IN, "x" * 1_000_000, ADDRESS, CODE, allowed=True, asked=False)
    assert len(caplog.text) < 1000
