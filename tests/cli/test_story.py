"""What ``--debug`` tells."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import MakePeer
from support.decisions import decision
from support.waiting import next_event

from stronghold_p2p import (
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionInfo,
    Direction,
    Dropped,
    Event,
    FirewallRules,
    HolePunchFailed,
    InboundConnectionFailed,
    Multiaddr,
    NoResponse,
    Path,
    PathLimits,
    PathUpgraded,
    PeerDiscovered,
    PeerExpired,
    PeerIdentified,
    PolicyError,
    PolicyFailed,
    PolicyLoaded,
    RequestFailed,
    RequestHandled,
    Rule,
    StrongholdP2p,
)
from stronghold_p2p.cli import story
from stronghold_p2p.identity import PeerId
from stronghold_p2p.protocols.identify import AGENT_VERSION

from .conftest import WAIT, Cli, process

PEER = PeerId.parse("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
RELAY = PeerId.parse("12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV")
ADDRESS = Multiaddr.parse("/ip4/192.0.2.7/tcp/4001")
SECRET = "treasure"


@pytest.fixture
def debug() -> Iterator[None]:
    logger = logging.getLogger("stronghold_p2p")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(level)


def lines(caplog: pytest.LogCaptureFixture, *names: tuple[object, str]) -> list[str]:
    """What was logged, with names for peers and ``…`` for numbers."""
    told = []
    for record in caplog.records:
        assert record.levelno == logging.DEBUG
        line = re.sub(r"/ip4/\S+", "ADDRESS", record.getMessage())
        for peer, name in names:
            line = line.replace(str(peer), name)
        told.append(re.sub(r"[\d.]+ (ms|s)\b", r"… \1", line))
    return told


async def test_the_story_of_a_request(debug: None, caplog: pytest.LogCaptureFixture) -> None:
    """From both sides: connected, decided, identified, answered, closed."""
    bob: StrongholdP2p[Any, Any] = StrongholdP2p(firewall=FirewallRules.allow_all())
    alice: StrongholdP2p[Any, Any] = StrongholdP2p()

    async def echo(request: Any) -> Any:
        return request.body

    bob.on_request(echo)
    async with story.running(bob):
        address = await bob.listen()
        async with story.running(alice):
            events = alice.events(), bob.events()
            with story.told("request to bob"):
                await alice.send_request(address, {"type": "Read", "secret": SECRET})
            for reader in events:
                await next_event(reader, PeerIdentified)
    told = lines(caplog, (alice.peer_id, "alice"), (bob.peer_id, "bob"))
    assert SECRET not in caplog.text
    of_alice = [
        "request to bob: begins",
        "#1 request to bob of type Read: allowed, by Rule.ALLOW_ALL (default)",
        "connected to bob directly, at ADDRESS",
        "request to bob: done after … ms",
        "the connection with bob is closed",
    ]
    of_bob = [
        "listening on ADDRESS",
        "alice has connected directly, from ADDRESS",
        "#1 request from alice of type Read: allowed, by Rule.ALLOW_ALL (default)",
        "#1 responded after … ms",
        "the connection with alice is closed",
        "no longer listening on ADDRESS",
    ]
    for side in (of_alice, of_bob):
        assert [line for line in told if line in side] == side
    others = {line for line in told if line not in of_alice + of_bob}
    assert others == {f"{name} has identified itself: {AGENT_VERSION}" for name in ("alice", "bob")}


async def test_what_fails_is_told_with_its_error(
    debug: None, caplog: pytest.LogCaptureFixture, make_peer: MakePeer
) -> None:
    bob, alice = await make_peer(firewall=FirewallRules(inbound=Rule.restricted(allow={"Other"}))), await make_peer()
    bob.on_request(lambda request: request.body)
    address = await bob.listen()
    with pytest.raises(NoResponse), story.told("request to bob"):
        await alice.send_request(address, 1)
    assert "request to bob: failed after … ms, NoResponse" in lines(caplog)


async def test_without_debug_nothing_is_read() -> None:
    async with story.running(StrongholdP2p()) as peer:
        assert not peer._parts.events.decisions_wanted


async def test_a_peer_that_does_not_start_is_closed(debug: None, tmp_path: Any) -> None:
    with pytest.raises(PolicyError):
        async with story.running(StrongholdP2p(policy=tmp_path / "missing")):
            pytest.fail("it has started")


def connection(direction: Direction, path: Path | None = None) -> ConnectionInfo:
    return ConnectionInfo(PEER, ADDRESS, direction, opened_at=0.0, streams=0, path=path or Path("tcp"))


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            ConnectionClosed(connection(Direction.INBOUND), ValueError("x" * 1000)),
            f"the connection with {PEER} is closed: {'x' * 199}…",
        ),
        (
            ConnectionEstablished(connection(Direction.OUTBOUND, Path("tcp", ADDRESS, RELAY))),
            f"connected to {PEER} through the relay {RELAY}, at {ADDRESS}",
        ),
        (
            ConnectionEstablished(connection(Direction.INBOUND, Path("tcp", None, RELAY, PathLimits(600.0, 16777216)))),
            f"{PEER} has connected through the relay {RELAY}, for 600 s and 16,777,216 bytes each way, from {ADDRESS}",
        ),
        (InboundConnectionFailed(ADDRESS, ValueError("\n")), f"a connection from {ADDRESS} failed: \\n"),
        (PeerDiscovered(PEER, (ADDRESS, ADDRESS)), f"{PEER} is announced at {ADDRESS} {ADDRESS}"),
        (PeerExpired(PEER), f"{PEER} is announced no more"),
        (PeerIdentified(PEER, "", (), (), None), f"{PEER} has identified itself: it names no agent"),
        (PeerIdentified(PEER, "\x1b[2J", (), (), None), f"{PEER} has identified itself: \\x1b[2J"),
        (
            decision(PEER, "\x1b[2J", allowed=False, waited=3.21, by="person", how="timeout"),
            f"#1 request from {PEER} of type \\x1b[2J: rejected after 3.2 s, by person: timeout",
        ),
        (
            decision(
                PEER, "/chat\n", Rule.ASK, allowed=False, by="approver \u202e", reason="not\nnow", line=None, id=7
            ),
            f"#7 stream from {PEER} of type /chat\\n: rejected, by approver \\u202e: not\\nnow",
        ),
        (
            decision(PEER, None, Rule.ASK, allowed=True, direction=Direction.OUTBOUND, layer="policy peer", line=12),
            f"#1 request to {PEER}: allowed, by Rule.ASK (policy peer, line 12)",
        ),
        (RequestHandled(7, PEER, "timeout", 0.0125), "#7 timeout after 12.5 ms"),
        (
            PathUpgraded(connection(Direction.OUTBOUND), Path("tcp", relay=PEER)),
            f"{PEER} is connected directly now, no longer through the relay {PEER}",
        ),
        (PolicyLoaded("policy.toml"), "policy policy.toml is in force"),
        (Dropped(1234), "1,234 lines are missing here: there were more than could be written"),
        # These the library itself writes to the log.
        (PolicyFailed(PolicyError("policy.toml", 0, "", "missing")), None),
        (RequestFailed(PEER, ValueError("slow")), None),
        (HolePunchFailed(PEER, ValueError("no answer"), attempt=1, last=False), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_events_in_words(event: Event, line: str | None) -> None:
    assert story._line(event) == line


def test_a_command_with_debug(cli: Cli) -> None:
    with process("listen", "--allow-all", "--debug") as listener:
        assert listener.stdout is not None
        peer_id, address = (listener.stdout.readline().split()[-1] for _ in range(2))
        asked = cli("request", address, f'{{"type":"Read","secret":"{SECRET}"}}', "--debug")
        pinged = cli("ping", address, "--count", "1", "--debug")
        listener.send_signal(signal.SIGTERM)
        _, err = listener.communicate(timeout=WAIT)
    assert (asked.status, pinged.status) == (0, 0)
    assert f"DEBUG request to {address}: done after" in asked.err
    assert f"DEBUG connected to {peer_id}" in asked.err
    assert f"DEBUG ping to {address}: done after" in pinged.err
    assert f"{address}" in err
    assert re.search(r"DEBUG #1 request from \S+ of type Read: allowed", err)
    assert re.search(r"DEBUG #1 responded after \S+ ms", err)
    assert SECRET not in asked.err + err
