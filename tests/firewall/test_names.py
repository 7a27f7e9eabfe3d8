"""Names of the policy, and petnames."""

from __future__ import annotations

import pytest
from conftest import MakePeer
from support.waiting import next_event

from stronghold_p2p import (
    FirewallDecision,
    FirewallRequest,
    FirewallRules,
    InvalidAddress,
    InvalidName,
    Keypair,
    PeerId,
    Policy,
    Rule,
    StrongholdP2p,
)
from stronghold_p2p.firewall.names import MAX_NAME, Names, check_name, labelled

ALICE, BOB, CAROL = (Keypair.generate().peer_id for _ in range(3))


@pytest.fixture
def names() -> Names:
    return Names()


def test_a_peer_has_its_name_until_it_gets_another(names: Names) -> None:
    assert names.name_of(ALICE) is None
    names.set_petname(ALICE, "alice")
    assert (names.name_of(ALICE), names.name_of(BOB)) == ("alice", None)
    names.set_petname(ALICE, "al")
    assert (names.name_of(ALICE), names.find("al")) == ("al", ALICE)
    with pytest.raises(InvalidAddress, match=r"neither a peer id nor the name of a peer$"):
        names.find("alice")
    names.set_petname(ALICE, None)
    names.set_petname(ALICE, None)
    assert names.name_of(ALICE) is None
    assert names.petnames == {}


def test_a_peer_is_found_by_its_name_or_by_its_id(names: Names) -> None:
    names.set_petname(ALICE, "alice")
    assert names.find("alice") == names.find(str(ALICE)) == names.find(ALICE.to_cid()) == ALICE
    assert names.find(str(BOB)) == BOB
    with pytest.raises(InvalidAddress, match=r"'Alice': neither .*; did you mean alice\?"):
        names.find("Alice")


def test_the_policy_goes_first(names: Names) -> None:
    names.set_petname(ALICE, "al")
    names.set_petname(BOB, "Alice")
    names.set_policy({ALICE: "alice", CAROL: "carol"})
    assert [names.name_of(peer) for peer in (ALICE, BOB, CAROL)] == ["alice", None, "carol"]
    assert names.find("alice") == names.find("al") == ALICE
    with pytest.raises(InvalidAddress, match=r"did you mean alice\?"):
        names.find("Alice")
    names.set_policy({CAROL: "alice"})
    assert [names.name_of(peer) for peer in (ALICE, BOB, CAROL)] == ["al", None, "alice"]
    names.set_policy({})
    assert [names.name_of(peer) for peer in (ALICE, BOB, CAROL)] == ["al", "Alice", None]
    assert names.find("Alice") == BOB


def test_the_names_of_groups_go_before_petnames(names: Names) -> None:
    names.set_petname(ALICE, "ops")
    names.set_policy({}, ["Ops"])
    assert names.name_of(ALICE) is None
    with pytest.raises(InvalidAddress):
        names.find("ops")
    with pytest.raises(InvalidName, match="the name of a group in the policy"):
        names.check(ALICE, "OPS")
    names.set_policy({})
    assert names.find("ops") == ALICE


@pytest.mark.parametrize("alike", ["alice", "ALICE", "\uff41lice", "aLICE"])
def test_names_that_look_alike_are_refused(names: Names, alike: str) -> None:
    names.set_petname(ALICE, "alice")
    with pytest.raises(InvalidName, match=f"is the name of {ALICE} already"):
        names.check(BOB, alike)
    names.check(ALICE, alike)
    names.set_petname(ALICE, None)
    names.check(BOB, alike)
    names.set_policy({ALICE: "alice"})
    with pytest.raises(InvalidName, match=f"is the name of {ALICE} in the policy"):
        names.check(BOB, alike)
    names.check(ALICE, alike)


def test_the_error_says_which_name_it_looks_like(names: Names) -> None:
    names.set_petname(ALICE, "backup  server")
    with pytest.raises(InvalidName, match="'Backup server': looks like 'backup  server', which is the name of"):
        names.check(BOB, "Backup server")


def test_the_last_one_to_get_a_name_has_it(names: Names) -> None:
    names.set_petname(ALICE, "alice")
    names.set_petname(BOB, "bob")
    names.set_petname(ALICE, "BOB")
    assert names.petnames == {ALICE: "BOB"}
    names.set_petname(BOB, "alice")
    assert names.petnames == {ALICE: "BOB", BOB: "alice"}


@pytest.mark.parametrize("name", ["a", "alice's phone", "Ölga", "爱丽丝", "x" * MAX_NAME, "12D3", "-", "a/b"])
def test_what_can_be_a_name(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "printable text"),
        ("a\x1b[2J", "printable text"),
        ("a\n", "printable text"),
        ("\u202eecila", "printable text"),
        ("a\u200bb", "printable text"),
        ("\ud800", "printable text"),
        (" alice", "begin or end with a blank"),
        ("alice ", "begin or end with a blank"),
        ("x" * (MAX_NAME + 1), "at most 64 characters, not 65"),
        ("/ip4/127.0.0.1", "begin with a slash"),
        ("12D3KooWRRyooRcDcrSCjR5cGBYRzUBbENWbvp2JY2atYtq45dhM", "a peer id cannot be a name"),
        ("12D3KooAlice", "a name must not begin with 12D3Koo, as peer ids do"),
        ("bafzaajaiaejcbz765xr4tswnwm5bvflcurw67pa2f734ijzju2bimmcstcxioxke", "a peer id cannot be a name"),
    ],
)
def test_what_cannot(name: str, reason: str) -> None:
    with pytest.raises(InvalidName, match=reason):
        check_name(name)


def test_people_see_the_name_and_both_ends_of_the_id() -> None:
    peer = PeerId.parse("12D3KooWRRyooRcDcrSCjR5cGBYRzUBbENWbvp2JY2atYtq45dhM")
    assert labelled(peer, "alice") == "alice (12D3Koo…q45dhM)"
    assert labelled(peer, None) == str(peer)


# -- in a peer -------------------------------------------------------------------------------------------


async def test_a_peer_knows_the_names_of_its_policy_and_petnames() -> None:
    peer = StrongholdP2p(policy=Policy(names={ALICE: "alice"}))
    peer.set_name(BOB, "bob")
    with pytest.raises(InvalidName, match="is the name of"):
        peer.set_name(str(CAROL), "Bob")
    async with peer:
        assert [peer.name_of(one) for one in (ALICE, str(BOB), CAROL)] == ["alice", "bob", None]
        with pytest.raises(InvalidName, match="in the policy"):
            peer.set_name(BOB, "alice")
        with pytest.raises(InvalidAddress):
            peer.set_name("bob", "carol")
        peer.set_name(BOB, None)
        assert peer.name_of(BOB) is None


async def test_questions_and_decisions_have_the_name(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules(inbound=Rule.ASK))
    bob.set_name(alice.peer_id, "alice")
    questions: list[FirewallRequest] = []

    @bob.on_firewall_request
    def approve(question: FirewallRequest) -> None:
        questions.append(question)
        question.approve()

    bob.on_request(lambda request: request.body)
    decisions = bob.events(decisions=True)
    await alice.send_request(await bob.listen(), 1)
    assert [question.name for question in questions] == ["alice"]
    assert (await next_event(decisions, FirewallDecision)).name == "alice"
