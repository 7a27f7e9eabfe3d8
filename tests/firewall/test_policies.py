"""What a policy file does to whole peers, over TCP: its limits, its trial, its tests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import MakePeer
from support.waiting import next_event, until

from stronghold_p2p import (
    FirewallDecision,
    FirewallRequest,
    FirewallRules,
    Keypair,
    Limit,
    Multiaddr,
    NoResponse,
    Policy,
    PolicyError,
    PolicyFailed,
    PolicyLoaded,
    Stream,
    StreamReset,
    StrongholdP2p,
)

Peer = StrongholdP2p[Any, Any]
SIGN, PING = {"type": "Sign"}, {"type": "Ping"}


class Ping(msgspec.Struct): ...


class Pair:
    """``alice`` asks; ``bob``, who has the policy, answers after ``may_end``. His decisions are read."""

    def __init__(self, alice: Peer, bob: Peer, address: Multiaddr) -> None:
        self.alice, self.bob, self.address = alice, bob, address
        self.events = bob.events(decisions=True)
        self.questions: list[FirewallRequest] = []
        self.begun = 0
        self.may_end = asyncio.Event()
        bob.on_request(self._answer)

    async def _answer(self, request: Any) -> Any:
        self.begun += 1
        await self.may_end.wait()
        return request.body

    def ask(self, body: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.alice.send_request(self.address, body))

    async def decision(self) -> FirewallDecision:
        return await next_event(self.events, FirewallDecision)

    async def how(self) -> tuple[bool, str, str]:
        """The next decision: whether it has passed, by whom and how."""
        decision = await self.decision()
        return decision.allowed, decision.by, decision.how


class Make:
    def __init__(self, make_peer: MakePeer, path: Path) -> None:
        self._make_peer = make_peer
        self.path = path

    async def __call__(self, text: str, **arguments: Any) -> Pair:
        self.path.write_text(text)
        bob = await self._make_peer(policy=self.path, **arguments)
        return Pair(await self._make_peer(), bob, await bob.listen())


@pytest.fixture
async def make(make_peer: MakePeer, tmp_path: Path) -> Make:
    return Make(make_peer, tmp_path / "policy.toml")


# -- limits --------------------------------------------------------------------------------------------


async def test_what_is_over_the_limit_of_its_type_is_rejected(make: Make) -> None:
    pair = await make('default.inbound = "allow"\ntypes.Sign.in_flight = 1')
    first = pair.ask(SIGN)
    assert await pair.how() == (True, "rule", "approved")
    with pytest.raises(NoResponse):
        await pair.ask(SIGN)
    assert await pair.how() == (False, "firewall", "limit")
    pair.may_end.set()
    assert await first == SIGN
    assert await pair.ask(PING) == PING
    await until(lambda: not pair.bob.connections[0].streams)
    assert await pair.ask(SIGN) == SIGN


async def test_what_is_over_a_limit_asks_nobody(make: Make) -> None:
    pair = await make('default.inbound = "ask"\ntypes.Sign.in_flight = 1')
    pair.may_end.set()
    pair.bob.on_firewall_request(pair.questions.append)
    first = pair.ask(SIGN)
    await until(lambda: pair.questions)
    with pytest.raises(NoResponse):
        await pair.ask(SIGN)
    assert await pair.how() == (False, "firewall", "limit")
    (question,) = pair.questions
    question.reject()
    with pytest.raises(NoResponse):
        await first
    assert await pair.how() == (False, "handler", "rejected")
    await until(lambda: not pair.bob.connections[0].streams)
    pair.ask(SIGN)
    await until(lambda: len(pair.questions) == 2)
    pair.questions[1].approve()
    assert await pair.how() == (True, "handler", "approved")


async def test_a_rule_that_rejects_takes_nothing_of_a_limit(make: Make) -> None:
    pair = await make('default.inbound = ["Ping"]\ntypes.Sign.per_second = 0.001')
    for _ in range(3):
        with pytest.raises(NoResponse):
            await pair.ask(SIGN)
        assert await pair.how() == (False, "rule", "rejected")


async def test_a_request_that_is_larger_than_its_type_or_its_peer_may(make: Make) -> None:
    pair = await make('default.inbound = "allow"\ntypes.Sign.max_bytes = 100')
    pair.may_end.set()
    large = {**SIGN, "text": "x" * 100}
    with pytest.raises(NoResponse):
        await pair.ask(large)
    assert await pair.how() == (False, "firewall", "limit")
    assert await pair.ask({**large, "type": "Ping"})
    pair.bob.on_firewall_request(pair.questions.append)
    make.path.write_text(f'groups.ops = {{ peers = ["{pair.alice.peer_id}"], inbound = "ask", max_bytes = 100 }}')
    await pair.bob.reload_policy()
    await next_event(pair.events, PolicyLoaded)
    with pytest.raises(NoResponse):
        await pair.ask({**large, "type": "Ping"})
    assert not pair.questions


async def test_streams_have_the_limit_of_their_protocol(make: Make) -> None:
    pair = await make('default.inbound = "allow"\n[types]\n"/chat/1" = { in_flight = 1 }')
    served: list[Stream] = []

    async def serve(stream: Stream) -> None:
        served.append(stream)
        while await stream.read(1):
            pass

    pair.bob.handle_stream("/chat/1", serve)
    await pair.alice.connect(pair.address)
    first = await pair.alice.open_stream(pair.bob.peer_id, "/chat/1")
    await first.write(b"a")
    await until(lambda: served)
    second = await pair.alice.open_stream(pair.bob.peer_id, "/chat/1")
    await second.write(b"a")
    with pytest.raises(StreamReset):
        await second.read(1)
    assert await pair.how() == (True, "rule", "approved")
    assert await pair.how() == (False, "firewall", "limit")
    await first.close()
    await until(lambda: not pair.bob.connections[0].streams)
    third = await pair.alice.open_stream(pair.bob.peer_id, "/chat/1")
    await third.write(b"a")
    await until(lambda: len(served) == 2)
    await third.close()


async def test_a_peer_s_own_rate(make: Make, make_peer: MakePeer) -> None:
    pair = await make('default.inbound = "allow"')
    pair.may_end.set()
    make.path.write_text(
        f'default.inbound = "allow"\n[peers.alice]\nid = "{pair.alice.peer_id}"\nin_flight = 1\nper_second = 0.001'
    )
    await pair.bob.reload_policy()
    await next_event(pair.events, PolicyLoaded)
    assert await pair.ask(PING) == PING
    waits = pair.ask(PING)
    carol = await make_peer()
    assert await carol.send_request(pair.address, PING) == PING
    assert await carol.send_request(pair.address, PING) == PING
    await until(lambda: pair.begun == 3)
    assert not waits.done()
    waits.cancel()
    await asyncio.wait([waits])


# -- a trial -------------------------------------------------------------------------------------------

TRIAL = """
mode = "observe"
networks.deny = ["127.0.0.0/8"]
limits.requests_per_second = 0.001
types.Ping.max_bytes = 1
default.inbound = "reject"
"""


async def test_a_policy_that_is_only_observed(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    pair = await make(TRIAL, firewall=FirewallRules.allow_all())
    pair.may_end.set()
    for _ in range(2):
        assert await pair.ask(PING) == PING
        decision = await pair.decision()
        assert (decision.allowed, decision.layer, decision.observed) == (True, "default", False)
    assert "the policy on trial would have rejected it" in caplog.text
    make.path.write_text(TRIAL.replace("observe", "enforce"))
    await pair.bob.reload_policy()
    await until(lambda: not pair.bob.connections)


async def test_a_trial_is_logged_though_nobody_reads_decisions(
    make_peer: MakePeer, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(mode="observe", rules=FirewallRules.reject_all())
    bob = await make_peer(policy=policy, firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    alice = await make_peer()
    assert await alice.send_request(await bob.listen(), PING) == PING
    assert f"a request from {alice.peer_id} of type 'Ping' passed; the policy on trial" in caplog.text


# -- tests ---------------------------------------------------------------------------------------------


async def test_a_reload_that_fails_its_tests_is_refused(make: Make) -> None:
    tests = '\n[[tests]]\ntype = "Ping"\nexpect = "allow"'
    pair = await make(f'default.inbound = ["Ping"]{tests}')
    pair.may_end.set()
    make.path.write_text(f'default.inbound = ["Sign"]{tests}')
    await pair.bob.reload_policy()
    error = (await next_event(pair.events, PolicyFailed)).error
    assert (error.line, error.key) == (4, "tests.expect")
    assert await pair.ask(PING) == PING


async def test_a_peer_whose_policy_fails_its_tests_does_not_start(make_peer: MakePeer, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('default.inbound = ["Sign"]\n[[tests]]\ntype = "Ping"\nexpect = "allow"')
    with pytest.raises(PolicyError, match=r"line 4, tests\.expect: the test fails: the policy rejects it"):
        await make_peer(policy=path)


# -- policies that are made in code ----------------------------------------------------------------------


async def test_a_policy_made_in_code(make_peer: MakePeer) -> None:
    policy = Policy(rules=FirewallRules(inbound=None), type_limits={"Ping": Limit(per_second=0.001)})
    bob = await make_peer(policy=policy, firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    alice = await make_peer()
    address = await bob.listen()
    assert await alice.send_request(address, PING) == PING
    with pytest.raises(NoResponse):
        await alice.send_request(address, PING)


@pytest.mark.parametrize(
    "values",
    [
        {"need": 0},
        {"need": 2},
        {"need": 2, "approvers": frozenset({Keypair.generate().peer_id})},
        {"requests_in_flight": 0},
        {"requests_per_second": -1.0},
    ],
    ids=lambda values: ", ".join(values),
)
def test_values_that_make_no_policy(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        Policy(**values)


@pytest.mark.parametrize("values", [{"per_second": 0.0}, {"in_flight": -1}, {"max_bytes": 1.5}, {"in_flight": True}])
def test_limits_that_limit_nothing_or_everything(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be a positive"):
        Limit(**values)


def test_a_limit_of_a_type_that_no_request_has() -> None:
    policy = Policy(type_limits={"Pnig": Limit(in_flight=1)})
    with pytest.raises(TypeError, match="no request has the type 'Pnig'; did you mean 'Ping'"):
        StrongholdP2p(policy=policy, request_type=Ping)
