"""StrongholdP2p as its user sees it, line by line of the agreed interface."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePeer
from support.compiled import COMPILED, replaces_parts
from support.remote import listening
from support.state import opened
from support.waiting import begun, introduced, next_event, settled, turns, until

from stronghold_p2p import (
    BanChanged,
    ClosedError,
    Config,
    ConnectionEstablished,
    ConnectionLost,
    DialError,
    Direction,
    EncodeError,
    FirewallDecision,
    FirewallRules,
    InvalidAddress,
    Keypair,
    Multiaddr,
    NameChanged,
    NoResponse,
    NotPermitted,
    PolicyError,
    ProtocolNotSupported,
    Request,
    RequestTimeout,
    Rule,
    RuleChanged,
    Stream,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.store.database import Database
from stronghold_p2p.store.firewall_memory import FirewallMemory
from stronghold_p2p.store.name_table import NameTable
from stronghold_p2p.swarm.swarm import Swarm

Peer = StrongholdP2p[Any, Any]
OWN = "/own/1.0.0"


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


# -- life ----------------------------------------------------------------------------------------------


async def test_an_identity_of_its_own_or_the_one_given(make_peer: MakePeer) -> None:
    keypair = Keypair.generate()
    peer = await make_peer(keypair=keypair)
    assert peer.peer_id == keypair.peer_id
    assert str(peer.peer_id) in repr(peer)
    assert (await make_peer()).peer_id != (await make_peer()).peer_id


async def test_start_and_close() -> None:
    peer = Peer()
    await peer.start()
    with pytest.raises(RuntimeError):
        await peer.start()
    await peer.close()
    await peer.close()
    with pytest.raises(ClosedError):
        await peer.start()


@pytest.mark.parametrize("closed", [False, True])
async def test_outside_of_its_life_nothing_reaches_the_network(closed: bool) -> None:
    peer, other = Peer(), Keypair.generate().peer_id
    if closed:
        async with peer:
            pass
    for act in (
        lambda: peer.send_request(other, 1),
        lambda: peer.connect(other),
        lambda: peer.disconnect(other),
        lambda: peer.ping(other),
        lambda: peer.listen(),
        lambda: peer.stop_listening(),
        lambda: peer.open_stream(other, OWN),
    ):
        with pytest.raises(ClosedError):
            await act()
    with pytest.raises(ClosedError):
        peer.is_connected(other)
    assert (peer.connections, peer.listeners) == ((), ())


async def test_what_needs_no_network_may_be_done_before() -> None:
    peer, other = Peer(), Keypair.generate().peer_id
    peer.addresses.add("/ip4/127.0.0.1/tcp/1", other)
    peer.set_firewall_default(Rule.ALLOW_ALL)
    peer.set_peer_rule(other, Rule.REJECT_ALL)
    peer.remove_peer_rule(other)
    peer.remove_firewall_default()
    await peer.ban_peer(other)
    await peer.unban_peer(other)
    await peer.ban_peer(str(other))
    peer.handle_stream(OWN, echo)
    events = peer.events()
    async with peer:
        await peer.listen()
    assert [event async for event in events]


async def test_the_events_end_with_the_peer(make_peer: MakePeer) -> None:
    peer = await make_peer()
    events = peer.events()
    await peer.close()
    assert not [event async for event in events]
    assert not [event async for event in peer.events()]
    with pytest.raises(ValueError, match="when_full"):
        peer.events(when_full="block")  # type: ignore[arg-type]


class Polite(StrongholdP2p[Any, Any]):
    """A user's own kind of peer."""

    def __init__(self, greeting: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.greeting = greeting

    async def send_request(self, to: Any, body: Any, *, timeout: float | None = None) -> Any:
        return await super().send_request(to, f"{self.greeting}, {body}", timeout=timeout)

    def __repr__(self) -> str:
        return f"<Polite {self.greeting}>"


async def test_a_class_of_a_users_own_may_inherit_from_it(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    async with Polite("good evening", config=Config(request_timeout=5)) as alice:
        assert await alice.send_request(await bob.listen(), "bob") == "good evening, bob"
        assert alice.is_connected(bob.peer_id)
        assert isinstance(alice, StrongholdP2p)
        assert repr(alice) == "<Polite good evening>"


# -- connecting ----------------------------------------------------------------------------------------


async def test_connect_and_disconnect(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    address = await bob.listen()
    assert not alice.is_connected(bob.peer_id)
    assert await alice.connect(str(address)) == bob.peer_id
    assert alice.is_connected(str(bob.peer_id))
    await alice.disconnect(str(bob.peer_id))
    assert not alice.is_connected(bob.peer_id)
    await alice.disconnect(bob.peer_id)
    await until(lambda: not bob.connections)


async def test_only_peer_ids_name_peers(make_peer: MakePeer) -> None:
    """A rule or a ban for anything else would be kept, and never met."""
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    address = await alice.listen()
    wrongs: list[Any] = [alice, address, alice.peer_id.to_bytes()]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            bob.set_peer_rule(wrong, Rule.REJECT_ALL)
        with pytest.raises(TypeError):
            bob.remove_peer_rule(wrong)
        with pytest.raises(TypeError):
            await bob.ban_peer(wrong)
    with pytest.raises(TypeError):
        await bob.send_request(alice, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [4001, ("127.0.0.1", 4001), b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"], ids=type)
async def test_only_multiaddrs_say_where(make_peer: MakePeer, wrong: Any) -> None:
    peer = await make_peer()
    words = "(?i)multiaddr" if COMPILED else "expected a Multiaddr or its text"  # mypyc checks types in its own words
    with pytest.raises(TypeError, match=words):
        await peer.listen(wrong)
    with pytest.raises(TypeError, match=words):
        await peer.stop_listening(wrong)
    for change in peer.addresses.add, peer.addresses.remove:
        with pytest.raises(TypeError, match="expected a Multiaddr or its text"):
            change(wrong, Keypair.generate().peer_id)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"keypair": "secret.pem"}, TypeError),
        ({"firewall": Rule.ALLOW_ALL}, TypeError),
        ({"config": {}}, TypeError),
        ({"addresses": []}, TypeError),
        ({"codec": "xml"}, ValueError),
    ],
)
def test_arguments_of_a_wrong_type(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        StrongholdP2p(**arguments)
    assert "secret" not in str(caught.value)


async def test_disconnecting_loses_what_runs(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: asyncio.Event().wait())
    asking = asyncio.create_task(alice.send_request(await bob.listen(), 1))
    await until(lambda: bob.connections and bob.connections[0].streams)
    await bob.disconnect(alice.peer_id)
    with pytest.raises(ConnectionLost):
        await asking


@pytest.mark.parametrize("target", ["", "/", "nonsense", "/ip4/127.0.0.1/tcp/1", "/ip4/300.0.0.1/tcp/1/p2p/x"])
async def test_targets_that_are_none(make_peer: MakePeer, target: str) -> None:
    alice = await make_peer()
    for act in (
        alice.send_request(target, 1),
        alice.connect(target),
        alice.ping(target),
        alice.open_stream(target, OWN),
    ):
        with pytest.raises(InvalidAddress) as caught:
            await act
        assert caught.value.address == target


async def test_a_host_and_port_are_told_what_an_address_is_like(make_peer: MakePeer) -> None:
    alice = await make_peer()
    with pytest.raises(
        InvalidAddress, match=r"not a peer id: .*; nor an address, such as /ip4/127.0.0.1/tcp/4001/p2p/"
    ):
        await alice.connect("localhost:4001")


async def test_an_address_of_a_peer_id_alone(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    target = f"/p2p/{bob.peer_id}"
    with pytest.raises(DialError):
        await alice.connect(target)
    alice.addresses.add(await bob.listen())
    assert await alice.connect(target) == bob.peer_id
    assert await alice.connect(bob.peer_id.to_cid()) == bob.peer_id


async def test_unsupported_addresses_are_dial_errors(make_peer: MakePeer) -> None:
    alice, other = await make_peer(), Keypair.generate().peer_id
    for target in "/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/127.0.0.1", "/dns4/no-such-host.invalid/tcp/1", "/p2p-circuit":
        with pytest.raises(DialError) as caught:
            await alice.connect(Multiaddr.parse(target).with_peer(other))
        (attempt,) = caught.value.attempts
        assert str(attempt.address) == target


# -- ping ----------------------------------------------------------------------------------------------


async def test_ping(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    address = await bob.listen()
    for _ in range(3):
        assert 0 < await alice.ping(address) < 10
    assert await bob.ping(alice.peer_id) > 0
    await until(lambda: not alice.connections[0].streams)


async def test_a_ping_that_is_not_answered(make_peer: MakePeer) -> None:
    alice = await make_peer()
    async with listening() as silent:
        connecting = asyncio.create_task(alice.connect(silent.address))
        remote = await silent.accept_upgraded()
        await connecting
        with pytest.raises(RequestTimeout):
            await alice.ping(silent.address, timeout=0.02)
        await remote.close()


# -- streams -------------------------------------------------------------------------------------------


async def test_a_protocol_of_ones_own(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    bob.handle_stream(OWN, echo)
    stream = await alice.open_stream(await bob.listen(), OWN)
    async with stream:
        await stream.write(b"END TO END")
        assert await stream.readexactly(10) == b"END TO END"
        await stream.close_write()
        assert await stream.read() == b""
    assert stream.peer == bob.peer_id
    await until(lambda: not alice.connections[0].streams and not bob.connections[0].streams)


async def test_negotiation_is_lazy(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    address = await bob.listen()
    stream = await alice.open_stream(address, OWN)
    with pytest.raises(ProtocolNotSupported):
        await stream.negotiated()
    stream = await alice.open_stream(address, OWN)
    await stream.write(b"x")
    with pytest.raises(ProtocolNotSupported):
        await stream.read()


async def test_a_stream_handler_that_fails(make_peer: MakePeer, caplog: pytest.LogCaptureFixture) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())

    async def fail(stream: Stream) -> None:
        raise KeyError("of the handler")

    bob.handle_stream(OWN, fail)
    stream = await alice.open_stream(await bob.listen(), OWN)
    with pytest.raises(StreamReset):
        await stream.read()
    assert "KeyError" in caplog.text
    assert await alice.ping(bob.peer_id) > 0


@pytest.mark.parametrize("started", [False, True])
async def test_protocols_that_cannot_be_served(started: bool) -> None:
    peer = Peer()
    if started:
        await peer.start()
    peer.handle_stream(OWN, echo)
    for taken in OWN, "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/stronghold-p2p/1.0.0":
        with pytest.raises(RuntimeError):
            peer.handle_stream(taken, echo)
    for malformed in "", "own", "/own\n", "/" + "x" * 1023, "/" + "ü" * 600:
        with pytest.raises(ValueError, match="protocol id"):
            peer.handle_stream(malformed, echo)
    async with peer if not started else Peer():
        pass
    await peer.close()


async def test_a_protocol_that_fits_no_line_is_not_opened(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    address = await bob.listen()
    for malformed in "/own\n", "/" + "x" * 1024:
        with pytest.raises(EncodeError):
            await alice.open_stream(address, malformed)
    assert await alice.ping(address) > 0


async def test_a_stream_beyond_the_limit_waits_for_its_time(make_peer: MakePeer) -> None:
    alice, bob = (
        await make_peer(config=Config(max_outbound_streams_per_connection=2)),
        await make_peer(firewall=FirewallRules.allow_all()),
    )
    bob.handle_stream(OWN, echo)
    address = await bob.listen()
    await introduced(alice, address)
    first, second = await alice.open_stream(address, OWN), await alice.open_stream(address, OWN)
    with pytest.raises(RequestTimeout):
        await alice.open_stream(address, OWN, timeout=0.02)
    waiting = asyncio.create_task(alice.open_stream(address, OWN))
    await settled()
    assert not waiting.done()
    second.reset()
    third = await waiting
    first.reset()
    third.reset()


async def test_many_streams_and_much_data_at_once(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    bob.handle_stream(OWN, echo)
    address = await bob.listen()

    async def transfer(number: int) -> None:
        body = bytes((number,)) * (100_000 + number)
        async with await alice.open_stream(address, OWN) as stream, asyncio.TaskGroup() as tasks:
            tasks.create_task(stream.write(body))
            assert await stream.readexactly(len(body)) == body

    await asyncio.gather(*(transfer(number) for number in range(40)))


async def test_closing_resets_streams_that_stay_open(make_peer: MakePeer) -> None:
    alice, bob = (
        await make_peer(),
        await make_peer(firewall=FirewallRules.allow_all(), config=Config(close_timeout=0.02)),
    )
    bob.handle_stream(OWN, echo)
    stream = await alice.open_stream(await bob.listen(), OWN)
    await stream.write(b"x")
    assert await stream.read() == b"x"
    await bob.close()
    with pytest.raises(ConnectionLost):
        await stream.read()


# -- on another event loop -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uvloop", "eager tasks"])
def test_on_other_loops(kind: str) -> None:
    complaints: list[Any] = []

    def make_loop() -> asyncio.AbstractEventLoop:
        if kind == "uvloop":
            loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
        else:
            loop = asyncio.new_event_loop()
            factory = getattr(asyncio, "eager_task_factory", None)
            if factory is None:
                loop.close()
                pytest.skip("tasks are eager from Python 3.12 on")
            loop.set_task_factory(factory)
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        return loop

    async def main() -> None:
        config = Config(close_timeout=0.1)
        async with Peer(firewall=FirewallRules.allow_all(), config=config) as bob, Peer(config=config) as alice:
            bob.on_request(lambda request: request.body)
            bob.handle_stream(OWN, echo)
            address = await bob.listen()
            events = bob.events()
            assert await asyncio.gather(*(alice.send_request(address, number) for number in range(300))) == list(
                range(300)
            )
            assert await alice.send_request(address, "x" * 1_000_000) == "x" * 1_000_000
            await next_event(events, ConnectionEstablished)
            await alice.disconnect(bob.peer_id)
            asking = [asyncio.create_task(alice.send_request(address, "x" * 10_000)) for _ in range(100)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            stream = await alice.open_stream(address, OWN)
            writing = await begun(stream.write(bytes(10_000_000)))
        await asyncio.gather(writing, *asking, return_exceptions=True)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())
    assert not complaints


def test_every_coroutine_that_is_agreed_is_one() -> None:
    for name in (
        *("send_request", "connect", "disconnect", "ping", "listen", "stop_listening"),
        *("ban_peer", "unban_peer", "open_stream", "start", "close"),
    ):
        assert inspect.iscoroutinefunction(getattr(StrongholdP2p, name))


def test_the_log_is_silent_by_default() -> None:
    program = "import logging; from stronghold_p2p import Rule; logging.getLogger('stronghold_p2p').error('heard')"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert told.stdout + told.stderr == b""


@pytest.mark.parametrize("after", range(4))
async def test_closing_may_be_cancelled_at_any_moment(make_peer: MakePeer, tmp_path: Path, after: int) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[default]\ninbound = "allow"\n')
    bob = await make_peer(policy=policy, firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    alice = await make_peer()
    address = await bob.listen()
    closing = asyncio.create_task(bob.close())
    await turns(after)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await bob.close()
    with pytest.raises(DialError):
        await alice.send_request(address, 1)


@pytest.mark.parametrize("after", range(1, 8))
@pytest.mark.parametrize("again", range(3))
async def test_closing_that_is_cancelled_ends_all_the_same(
    make_peer: MakePeer, tmp_path: Path, after: int, again: int
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[default]\ninbound = "allow"\n')
    bob = await make_peer(policy=policy, state=tmp_path / "state.db", config=Config(close_timeout=3600))
    bob.on_request(lambda request: asyncio.Event().wait())
    alice = await make_peer()
    asking = asyncio.create_task(alice.send_request(await bob.listen(), 1))
    await until(lambda: bob.connections and bob.connections[0].streams)
    events = bob.events()
    closing = asyncio.create_task(bob.close())
    await turns(after)
    closing.cancel()
    await turns(again)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await bob.close()
    assert [event async for event in events]  # which end
    with pytest.raises(ConnectionLost):
        await asking
    await alice.close()
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await until(lambda: not any(thread.name.startswith("stronghold-p2p-state") for thread in threading.enumerate()))


@replaces_parts
async def test_a_step_of_closing_that_fails_stops_none_of_the_others(
    make_peer: MakePeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await make_peer(state=tmp_path / "state.db")
    events = bob.events()

    async def fail(swarm: Swarm) -> None:
        raise OSError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Swarm, "close", fail)
        with pytest.raises(OSError, match="out of memory"):
            await bob.close()
    assert [event async for event in events] == []
    await until(lambda: not any(thread.name.startswith("stronghold-p2p-state") for thread in threading.enumerate()))


@replaces_parts
async def test_a_start_that_fails_leaves_nothing_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, state, carol = tmp_path / "policy.toml", tmp_path / "state.db", Keypair.generate().peer_id
    policy.write_text("[default")
    bob: StrongholdP2p[Any, Any] = StrongholdP2p(policy=policy, state=state)
    with pytest.raises(PolicyError):
        await bob.start()
    policy.write_text("[default]")
    with monkeypatch.context() as patch:
        patch.setattr(Swarm, "handle", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await bob.start()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await until(lambda: not any(thread.name.startswith("stronghold-p2p-state") for thread in threading.enumerate()))
    with opened(state) as file:
        file.set_banned(carol, True)  # changes that others make meanwhile are seen
    async with bob:
        with pytest.raises(NotPermitted, match="banned"):
            await bob.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{carol}")


async def test_what_changes_in_the_state_file_is_told_and_what_it_held_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = FirewallMemory.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "interval", 0.001)
    state, carol, dave = tmp_path / "state.db", Keypair.generate().peer_id, Keypair.generate().peer_id
    with opened(state) as file:
        file.set_banned(dave, True)
        file.set_rule(dave, Direction.BOTH, Rule.ASK)
    async with Peer(state=state) as bob:
        events = bob.events()
        with opened(state) as file:
            file.set_banned(carol, True)
        assert await anext(events) == BanChanged(carol, True)
        with opened(state) as file:
            file.set_rule(carol, Direction.INBOUND, Rule.ASK)
        assert await anext(events) == RuleChanged(carol, Direction.INBOUND, "Rule.ASK")
        bob.set_name(carol, "carol")
        assert await anext(events) == NameChanged(carol, "carol")
        with Database(state) as database:
            NameTable(database).set(dave, "dave")
        assert await anext(events) == NameChanged(dave, "dave")


async def test_suspended_requests_are_rejected_also_those_that_wait(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.ask_all())
    questions, events = bob.firewall_requests(), bob.events(decisions=True)
    bob.on_request(lambda request: request.body)
    asking = asyncio.create_task(alice.send_request(await bob.listen(), 1))
    question = await anext(questions)
    bob.suspend_requests()
    assert not question.approve()
    with pytest.raises(NoResponse):
        await asking
    decision = await next_event(events, FirewallDecision)
    assert (decision.layer, decision.allowed, decision.by, decision.how) == ("suspended", False, "rule", "rejected")
    bob.resume_requests()
    assert bob.get_firewall_config() == FirewallRules.ask_all()


async def test_a_second_call_waits_for_the_first_one_that_closes(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all())
    may_end = asyncio.Event()

    @bob.on_request
    async def answer(request: Request[Any]) -> Any:
        await may_end.wait()
        return request.body

    alice = await make_peer()
    asking = asyncio.create_task(alice.send_request(await bob.listen(), 1))
    await until(lambda: bob.connections and bob.connections[0].streams)
    first, second = asyncio.create_task(bob.close()), asyncio.create_task(bob.close())
    await settled()
    assert not first.done()
    assert not second.done()
    may_end.set()
    assert await asking == 1
    await first
    await second


@pytest.mark.parametrize("after", [0, 1, 2, 4, 8, 16])
@pytest.mark.parametrize("closes", [False, True])
async def test_starting_may_be_cancelled_or_closed_at_any_moment(tmp_path: Path, after: int, closes: bool) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[default]\ninbound = "allow"\n')
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(policy=policy, state=tmp_path / "state.db")
    starting = asyncio.create_task(peer.start())
    await turns(after)
    if closes:
        await peer.close()
    else:
        starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await peer.close()
    await until(lambda: not any(thread.name.startswith("stronghold-p2p-state") for thread in threading.enumerate()))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_policy_that_cannot_be_used_makes_no_state_file(tmp_path: Path) -> None:
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(policy=tmp_path / "missing", state=tmp_path / "state.db")
    with pytest.raises(PolicyError):
        await peer.start()
    assert not os.listdir(tmp_path)
    await peer.close()


async def test_what_code_says_before_the_start_goes_before_what_was_kept(tmp_path: Path) -> None:
    state, peer_id = tmp_path / "state.db", Keypair.generate().peer_id
    with opened(state) as file:
        file.set_rule(peer_id, Direction.BOTH, Rule.ALLOW_ALL)
    for rule in (Rule.REJECT_ALL, None):  # by now nothing is kept
        peer: StrongholdP2p[Any, Any] = StrongholdP2p(state=state)
        if rule is not None:
            peer.set_peer_rule(peer_id, rule, direction=Direction.INBOUND)
        async with peer:
            assert peer.get_firewall_config().peers[peer_id] == (rule, Rule.ALLOW_ALL)


async def test_a_rule_that_code_sets_while_the_peer_starts_goes_before_what_was_kept(tmp_path: Path) -> None:
    state, peer_id = tmp_path / "state.db", Keypair.generate().peer_id
    with opened(state) as file:
        file.set_rule(peer_id, Direction.INBOUND, Rule.ALLOW_ALL)
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(state=state)
    starting = await begun(peer.start())
    peer.set_peer_rule(peer_id, Rule.REJECT_ALL, direction=Direction.INBOUND)
    await starting
    assert peer.get_firewall_config().peers[peer_id] == (Rule.REJECT_ALL, None)
    await peer.close()
    with opened(state) as file:
        assert not file.read().rules


@pytest.mark.parametrize("banned", [True, False])
async def test_a_ban_that_code_makes_or_lifts_before_the_start_is_kept(tmp_path: Path, banned: bool) -> None:
    state, peer_id = tmp_path / "state.db", Keypair.generate().peer_id
    with opened(state) as file:
        file.set_banned(peer_id, not banned)
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(state=state)
    await (peer.ban_peer(peer_id) if banned else peer.unban_peer(peer_id))
    async with peer:
        assert peer.banned == ((peer_id,) if banned else ())
        assert (peer._parts.admission.refusal_of_peer(peer_id) is not None) == banned
    with opened(state) as file:
        assert file.read().banned == ({peer_id} if banned else set())
