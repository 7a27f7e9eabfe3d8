"""A model of the firewall, and a peer that must agree with it in everything: who passes, who is asked about, what is
told of it. The peer is whole but for its network, which ends at its streams; time passes when the model says so.

The model knows nothing of the code under test: it keeps the rules in force as words, and walks through what happens
in the order in which an event loop does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.clock import Clock
from support.compiled import replaces_parts
from support.examples import examples
from support.loop import Loop
from support.yamux import memory_share

from stronghold_p2p import (
    Config,
    ConnectionLost,
    Direction,
    FirewallDecision,
    FirewallRequest,
    FirewallRequestEnded,
    FirewallRequestOpened,
    FirewallRules,
    Keypair,
    Multiaddr,
    NotPermitted,
    Path,
    PeerId,
    RequestTimeout,
    Rule,
    StrongholdP2p,
)
from stronghold_p2p.encoding import varint
from stronghold_p2p.requests.codec import make_codec
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport.state import RemoteIdentify

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
US: Final = Keypair.generate()
PEERS: Final = [Keypair.generate().peer_id for _ in range(3)]
ADDRESS: Final = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
QUIET: Final = 5
# Small enough for every limit to strike. Nothing that is due falls on the same moment as something else that is.
CONFIG: Final = Config(
    firewall_timeout=2,
    firewall_quiet=QUIET,
    max_firewall_questions=4,
    max_firewall_questions_per_peer=3,
    max_firewall_waiting_requests=7,
    max_firewall_waiting_requests_per_peer=5,
    max_firewall_waiting_bytes=5700,
    max_firewall_waiting_bytes_per_peer=3900,
)
CODEC: Final = make_codec("json", None, max_size=1000)
OUTBOUND_TIMEOUT: Final = 1.25
QUEUE: Final = 2
LISTENERS: Final = ("queue", "handler")
"""In the order in which they are asked."""


class Topic(NamedTuple):
    """What a question is about."""

    peer: PeerId
    kind: str
    type: str | None


Where = tuple[PeerId, Direction]
Holder = tuple[str, PeerId]
"""Of what waits: "ours", or "theirs" of the one network in which they all are, and the peer."""


def _raises(peer: PeerId, direction: Direction, view: Any) -> bool:
    raise LookupError("no answer")


RULES: Final[dict[str, Rule]] = {
    "allow": Rule.ALLOW_ALL,
    "reject": Rule.REJECT_ALL,
    "ask": Rule.ASK,
    "pings": Rule.restricted(allow={"Ping"}),
    "mixed": Rule.restricted(allow={"Ping"}, ask={"Read"}),
    "careful": Rule.restricted(allow={"Read"}, reject={"Ping"}, otherwise="ask"),
    "short": Rule.restricted(lambda peer, direction, view: view < 50),
    "outbound": Rule.restricted(lambda peer, direction, view: direction is OUT),
    "truthy": Rule.restricted(lambda peer, direction, view: 1),  # type: ignore[arg-type,return-value]
    "raises": Rule.restricted(_raises),
}


def says(rule: str | None, request: ModelRequest) -> str:
    """What a rule means: "allow", "reject" or "ask"."""
    match rule:
        case None:
            return "ask"
        case "allow" | "reject" | "ask":
            return rule
        case "pings":
            allowed = request.type == "Ping"
        case "mixed":
            return {"Ping": "allow", "Read": "ask"}.get(request.type or "", "reject")
        case "careful":
            return {"Read": "allow", "Ping": "reject"}.get(request.type or "", "ask")
        case "short":
            allowed = request.padding < 50
        case "outbound":
            allowed = request.direction is OUT
        case _:
            allowed = False
    return "allow" if allowed else "reject"


# -- the network, as far as requests see it --------------------------------------------------------------


class FakeStream:
    """One stream. ``sent`` sees what is written to it."""

    def __init__(self, connection: FakeConnection, sent: Callable[[FakeStream, bytes], None]) -> None:
        self.connection = connection
        self.peer = connection.peer
        self.remote_address = ADDRESS
        self.remote_identify = RemoteIdentify.SERVED
        self.untouched = False
        self.loop = connection.loop
        self.now = connection.now
        self.spawn = self.begin = connection.spawn
        self.protocol = "/stronghold-p2p/1.0.0"
        self.receiver: Any = None
        self.ended = ""
        self._sent = sent
        connection.streams[self] = None

    def write_now(self, data: bytes) -> bool:
        self._sent(self, data)
        return True

    def end(self, how: str) -> None:
        self.ended = self.ended or how
        self.connection.streams.pop(self, None)

    def release(self) -> None:
        self.end("released")

    def reset(self, code: int = 0) -> None:
        self.end("reset")

    def set_deadline(self, when: float) -> None: ...
    def clear_deadline(self) -> None: ...
    def credit(self, size: int) -> None: ...

    def hold(self, size: int) -> None:
        self.connection.budget.take(size)

    def let_go(self, size: int) -> None:
        self.connection.budget.give(size)


class FakeConnection:
    """One connection, on which streams cost nothing."""

    config = CONFIG
    remote_address = ADDRESS
    path = Path("memory")

    def __init__(self, network: FakeNetwork, peer: PeerId) -> None:
        self.peer = peer
        self.network = network
        self.loop = network.loop
        self.now = network.loop.time
        self.budget = memory_share(2**20)
        self.streams: dict[FakeStream, None] = {}
        self.lost = False
        self._tasks: dict[asyncio.Task[None], None] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    def serves(self, protocol: str) -> bool:
        return True

    def open_substream_now(self, protocol: str) -> FakeStream | None:
        return None if self.lost else FakeStream(self, self.network.request_sent)

    async def open_substream(self, protocol: str) -> FakeStream:
        raise ConnectionLost

    def lose(self) -> None:
        self.lost = True
        for stream in list(self.streams):
            stream.end("lost")
            stream.receiver.stream_failed(ConnectionLost())
        for task in self._tasks:
            task.cancel()


class FakeNetwork:
    """In place of the swarm: every peer can be reached at once. ``wire`` gets the id of each request that is sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wire: Callable[[int], None]) -> None:
        self.loop = loop
        self.connections_by_peer: dict[PeerId, FakeConnection] = {}
        self.connections: tuple[()] = ()
        self.dialed: list[PeerId] = []
        self._wire = wire

    def connection(self, peer: PeerId) -> FakeConnection | None:
        return self.connections_by_peer.get(peer)

    def open(self, peer: PeerId) -> FakeConnection:
        return self.connections_by_peer.setdefault(peer, FakeConnection(self, peer))

    async def connect(
        self, peer: PeerId, addresses: tuple[Multiaddr, ...], deadline: float, *, find: bool
    ) -> FakeConnection:
        if peer not in self.connections_by_peer:
            self.dialed.append(peer)
        return self.open(peer)

    def lose(self, peer: PeerId) -> None:
        self.connections_by_peer.pop(peer).lose()

    def request_sent(self, stream: FakeStream, message: bytes) -> None:
        head = varint.decode(message)
        assert head is not None
        self._wire(msgspec.json.decode(message[head[1] :])["id"])
        self.loop.call_soon(lambda: None if stream.ended else stream.receiver.data_received(b"\x04null"))

    def offer_changed(self, peer: PeerId | None = None) -> None: ...

    async def close(self) -> None:
        for peer in list(self.connections_by_peer):
            self.lose(peer)


# -- the model -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class ModelRequest:
    id: int
    peer: PeerId
    direction: Direction
    body: dict[str, Any]
    type: str | None
    padding: int
    size: int
    outcome: str = ""
    """Empty while it is undecided; then "passed", "rejected" or "gone"."""
    dials: bool = False
    """No connection was there when it was made."""
    approved: bool = False
    """Somebody has let it pass."""
    canceled: bool = False
    began: bool = False
    asked_by: tuple[str | None, str] = None, ""
    """The rule, and its layer, that had it asked about."""
    answer: str | None = None
    """What it has been told and has not heard yet."""
    question: ModelQuestion | None = None
    expires: float | None = None
    # Its end in the real world:
    stream: FakeStream | None = None
    call: asyncio.Task[Any] | None = None

    @property
    def holder(self) -> Holder:
        return ("ours" if self.direction is OUT else "theirs"), self.peer


@dataclass(eq=False)
class ModelQuestion:
    id: int
    kind: str
    first: ModelRequest
    rule: str | None
    expires: float
    waiting: list[ModelRequest]
    takers: set[str] = field(default_factory=set)
    shown: bool = False
    """Somebody has it before them, who did not answer at once."""
    opened: bool = False

    @property
    def where(self) -> Where:
        return self.first.peer, self.first.direction

    @property
    def holder(self) -> Holder:
        return self.first.holder

    @property
    def about(self) -> Topic:
        return Topic(self.first.peer, self.kind, self.first.type if self.kind == "request" else None)


Item = TypeVar("Item", ModelRequest, ModelQuestion)


class ModelShares(Generic[Item]):
    """Items in the order in which they came. ``limit`` and ``limit_of_peer`` are for the sums of their sizes."""

    def __init__(self, limit: int, limit_of_peer: int | None = None) -> None:
        self.limit = limit
        self.limit_of_peer = limit_of_peer
        self.items: dict[Item, int] = {}
        self.turns: list[str | Holder] = []
        """All networks, and all holders. The one whose turn it is stands before the others of its kind."""

    def add(self, item: Item, size: int = 1) -> None:
        self.items[item] = size
        self.turns += [one for one in (item.holder[0], item.holder) if one not in self.turns]

    def discard(self, item: Item) -> None:
        self.items.pop(item, None)
        self.turns = [one for one in self.turns if self._used(one)]

    def next(self) -> Item:
        network = next(one for one in self.turns if isinstance(one, str))
        holder = next(one for one in self.turns if one[0] == network)
        for one in (network, holder):
            self.turns.remove(one)
            self.turns.append(one)
        item = next(item for item in self.items if item.holder == holder)
        self.discard(item)
        return item

    def refuses(self, item: Item) -> bool:
        """Whether the item, which came last, is too much of its peer's, or itself what must go."""
        of_peer = sum(size for other, size in self.items.items() if other.holder[1] == item.holder[1])
        return (self.limit_of_peer is not None and of_peer > self.limit_of_peer) or self.excess() is item

    def excess(self) -> Item | None:
        """What must go."""
        if sum(self.items.values()) <= self.limit:
            return None
        network = "theirs" if "theirs" in self.turns else "ours"
        holder = max((one for one in reversed(self.turns) if one[0] == network), key=self._used)
        return [item for item in self.items if item.holder == holder][-1]

    def _used(self, one: str | Holder) -> int:
        return sum(size for item, size in self.items.items() if one in (item.holder, item.holder[0]))


@dataclass
class Model:
    """What must happen. ``listeners``: how questions are asked, by "handler", by "queue", by both or by nothing."""

    listeners: set[str]
    now: float
    policy_peers: dict[Where, str] = field(default_factory=dict)
    peers: dict[Where, str] = field(default_factory=dict)
    policy_defaults: dict[Direction, str] = field(default_factory=dict)
    defaults: dict[Direction, str] = field(default_factory=dict)
    requests: list[ModelRequest] = field(default_factory=list)
    """Those undecided."""
    questions: list[ModelQuestion] = field(default_factory=list)
    """Those open."""
    asked: list[ModelQuestion] = field(default_factory=list)
    """Those that somebody has heard, in order."""
    queue: ModelShares[ModelQuestion] = field(default_factory=lambda: ModelShares(QUEUE))
    open: ModelShares[ModelQuestion] = field(
        default_factory=lambda: ModelShares(CONFIG.max_firewall_questions, CONFIG.max_firewall_questions_per_peer)
    )
    waiting: ModelShares[ModelRequest] = field(
        default_factory=lambda: ModelShares(
            CONFIG.max_firewall_waiting_requests, CONFIG.max_firewall_waiting_requests_per_peer
        )
    )
    bytes: ModelShares[ModelRequest] = field(
        default_factory=lambda: ModelShares(
            CONFIG.max_firewall_waiting_bytes, CONFIG.max_firewall_waiting_bytes_per_peer
        )
    )
    quiet: dict[Topic | str, float] = field(default_factory=dict)
    to_run: deque[ModelRequest] = field(default_factory=deque)
    """Whose turn it is as soon as the loop runs."""
    answer_at_once: str | None = None
    running: ModelRequest | None = None
    """The request in whose turn its question is answered: it need not wait for another."""
    told: list[tuple[Any, ...]] = field(default_factory=list)
    """The decisions."""
    told_of_questions: list[tuple[Any, ...]] = field(default_factory=list)
    raised: int = 0
    """Questions, so far."""

    def rule_for(self, peer: PeerId, direction: Direction) -> tuple[str | None, str]:
        for layer, found in (
            ("policy peer", self.policy_peers.get((peer, direction))),
            ("peer", self.peers.get((peer, direction))),
            ("policy default", self.policy_defaults.get(direction)),
            ("default", self.defaults.get(direction)),
        ):
            if found is not None:
                return found, layer
        return None, "none"

    def may_pass(self, request: ModelRequest) -> bool:
        """The one thing that must hold above all."""
        return request.approved or says(self.rule_for(request.peer, request.direction)[0], request) == "allow"

    # -- what happens at once --

    def arrive(self, request: ModelRequest) -> None:
        """An inbound request is there."""
        rule, layer = self.rule_for(request.peer, request.direction)
        if rule == "reject":
            request.outcome = "rejected"  # the protocol is not even offered
        elif (word := says(rule, request)) == "ask":
            self.requests.append(request)
            self.to_run.append(request)
        else:
            self._decided(request, word == "allow", rule, layer)

    def call(self, request: ModelRequest) -> None:
        """An outbound one is to be sent."""
        self.requests.append(request)
        self.to_run.append(request)

    def cancel(self, request: ModelRequest) -> None:
        if not request.canceled:
            request.canceled = True
            if request not in self.to_run:
                self.to_run.append(request)

    def answer(self, question: ModelQuestion, answer: str) -> int:
        """Whether the answer came in time; for that about a network, the questions that it rejects."""
        if not question.waiting:
            return False
        if answer == "reject network":
            self.quiet["theirs"] = self.now + QUIET
            rejected = [one for one in self.questions if one.first.direction is IN or one is question]
            for one in rejected:
                self._end(one, "reject", "rejected")
            return len(rejected)
        if answer in ("approve", "reject"):
            self._end(question, answer, "approved" if answer == "approve" else "rejected")
            return True
        self.peers[question.where] = answer
        self.changed(question.first.peer, by=question)
        if question.waiting and (word := says(answer, question.first)) != "ask":
            self._end(question, "approve" if word == "allow" else "reject", "rule set")
        return True

    def changed(self, peer: PeerId | None, *, by: ModelQuestion | None = None) -> None:
        for question in list(self.questions):
            if peer in (None, question.first.peer) and self.rule_for(*question.where)[0] != question.rule:
                self._end(question, "reconsider", "rule set" if question is by else "reconsidered")

    def leave(self, listener: str) -> None:
        """Who was asked so far is not asked any more."""
        self.listeners.discard(listener)
        if listener == "queue":
            self.queue = ModelShares(QUEUE)
        for question in list(self.questions):
            question.takers.discard(listener)
            if not question.takers:
                self._end(question, "reject", "unanswered")

    def come(self, listener: str) -> None:
        """Somebody more is asked from now on, at once what is open."""
        self.listeners.add(listener)
        for question in list(self.questions):
            if question.waiting:
                self._offer(question, listener)

    def take(self) -> ModelQuestion | None:
        """The next question of the queue."""
        if not self.queue.items:
            return None
        question = self.queue.next()
        question.shown = True
        self.asked.append(question)
        return question

    # -- what happens in its turn --

    def settle(self) -> None:
        while self.to_run:
            self._run(self.to_run.popleft())

    def pass_time(self, now: float) -> None:
        """As far as ``now``, at which something may be due."""
        self.now = now
        for request in list(self.requests):
            if request.expires is not None and request.expires <= now:
                self.cancel(request)
        for question in list(self.questions):
            if question.expires <= now:
                if question.shown:
                    self.quiet[question.about] = now + QUIET
                self._end(question, "reject", "timed out")
        self.settle()

    # -- details --

    def _run(self, request: ModelRequest) -> None:
        if request.canceled:
            if request.question is not None and request in request.question.waiting:
                request.question.waiting.remove(request)
                if not request.question.waiting:
                    if request.direction is Direction.INBOUND and request.question.shown:
                        self.quiet[request.question.about] = self.now + QUIET
                    self._close(request.question, "withdrawn")
            if request.began:
                self._tell(request, *self.rule_for(request.peer, request.direction), allowed=False)
            self._gone(request, "gone")
            return
        request.began = True
        answer, request.answer = request.answer, None
        while True:
            if answer in ("approve", "reject"):
                self._decided(request, answer == "approve", *request.asked_by)
                return
            rule, layer = self.rule_for(request.peer, request.direction)
            if (word := says(rule, request)) != "ask":
                self._decided(request, word == "allow", rule, layer)
                return
            request.asked_by = rule, layer
            self.running = request
            asked = self._ask(request, rule)
            self.running = None
            if not asked:
                self._decided(request, False, rule, layer)
                return
            answer, request.answer = request.answer, None
            if answer is None:
                return

    def _ask(self, request: ModelRequest, rule: str | None) -> bool:
        """False if there can be no question."""
        same = [one for one in self.questions if (one.kind, one.where) == ("peer", (request.peer, request.direction))]
        question = same[0] if same and rule is None else None
        if is_new := question is None:
            kind = "peer" if rule is None else "request"
            expires = self.now + CONFIG.firewall_timeout
            question = ModelQuestion(self.raised + 1, kind, request, rule, expires, [])
            silenced = (request.holder[0], Topic(request.peer, "peer", None), question.about)
            if not self.listeners or any(self.quiet.get(who, 0) > self.now for who in silenced):
                return False
            self.questions.append(question)
        assert question is not None
        question.waiting.append(request)
        request.question = question
        if not self._find_room(request, question):
            self._turn_away(request)
            return False
        if is_new:
            self._put(question)
        return True

    def _find_room(self, request: ModelRequest, question: ModelQuestion) -> bool:
        """Whether there is room, after others have given way."""
        asked: list[tuple[ModelShares[Any], Any, int]] = [
            (self.waiting, request, 1),
            (self.bytes, request, request.size),
            (self.open, question, 1),
        ]
        asked = [(shares, item, size) for shares, item, size in asked if item not in shares.items]
        for shares, item, size in asked:
            shares.add(item, size)
        if any(shares.refuses(item) for shares, item, _ in asked):
            return False
        for shares, item, _ in asked:
            while (excess := shares.excess()) is not None:
                shares.discard(excess)
                if excess is item:
                    return False
                if isinstance(excess, ModelQuestion):
                    self._end(excess, "reject", "crowded out")
                else:
                    self._turn_away(excess)
        return True

    def _turn_away(self, request: ModelRequest) -> None:
        self.waiting.discard(request)
        self.bytes.discard(request)
        question = request.question
        if question is not None and request in question.waiting:
            question.waiting.remove(request)
            if not request.canceled and request is not self.running:
                request.answer = "reject"
                self.to_run.append(request)
            if not question.waiting:
                self._close(question, "crowded out")

    def _put(self, question: ModelQuestion) -> None:
        self.raised += 1
        for listener in LISTENERS:
            if listener in self.listeners and question.waiting:
                self._offer(question, listener)
        if question.waiting and not question.takers:
            self._end(question, "reject", "unanswered")
        if question.waiting:
            question.opened = True
            self.told_of_questions.append(self._about(question))

    def _offer(self, question: ModelQuestion, listener: str) -> None:
        if listener == "queue":
            question.takers.add(listener)
            self.queue.add(question)
            if (excess := self.queue.excess()) is not None:
                self.queue.discard(excess)
                excess.takers.discard(listener)
                if excess.opened and not excess.takers:
                    self._end(excess, "reject", "unanswered")
            return
        question.takers.add(listener)
        self.asked.append(question)
        if self.answer_at_once is not None:
            answer, self.answer_at_once = self.answer_at_once, None
            self.answer(question, answer)
        question.shown = True

    def _end(self, question: ModelQuestion, answer: str, outcome: str) -> None:
        for request in question.waiting:
            if not request.canceled:
                request.answer = answer
                request.approved = answer == "approve"
                if request is not self.running:
                    self.to_run.append(request)
        question.waiting.clear()
        self._close(question, outcome)

    def _close(self, question: ModelQuestion, outcome: str) -> None:
        self.questions.remove(question)
        self.queue.discard(question)
        self.open.discard(question)
        if question.opened:
            self.told_of_questions.append((*self._about(question), outcome))

    @staticmethod
    def _about(question: ModelQuestion) -> tuple[Any, ...]:
        return question.id, *question.where, question.first.type, question.kind

    def _decided(self, request: ModelRequest, allowed: bool, rule: str | None, layer: str) -> None:
        self._tell(request, rule, layer, allowed=allowed)
        if request.dials and self.rule_for(request.peer, OUT)[0] == "reject":
            allowed = False  # a rule set since forbids the dial
        self._gone(request, "passed" if allowed else "rejected")

    def _gone(self, request: ModelRequest, outcome: str) -> None:
        request.outcome = outcome
        self.waiting.discard(request)
        self.bytes.discard(request)
        if request in self.requests:
            self.requests.remove(request)

    def _tell(self, request: ModelRequest, rule: str | None, layer: str, *, allowed: bool) -> None:
        text = None if rule is None else repr(RULES[rule])
        self.told.append((request.peer, request.direction, request.type, text, layer, allowed))


# -- both, side by side ----------------------------------------------------------------------------------

directions = st.sampled_from([IN, OUT])
some_directions = st.sampled_from([IN, OUT, Direction.BOTH])
peers = st.sampled_from(PEERS)
rules = st.sampled_from(list(RULES))
some_rules = st.none() | rules
answers = st.sampled_from(["approve", "reject", *RULES])
TYPES: Final[list[Any]] = ["Ping", "Read", None, ["Ping"], {"type": "Ping"}]


class FirewallMachine(RuleBasedStateMachine):
    """Every step is done to the peer and to the model. ``settle``: the loop runs before the next one."""

    @initialize(
        listeners=st.sampled_from([{"handler"}, {"handler"}, {"queue"}, {"handler", "queue"}, set()]),
        inbound=some_rules,
        outbound=some_rules,
    )
    def begin(self, listeners: set[str], inbound: str | None, outbound: str | None) -> None:
        self.loop = Loop()
        self.clock = Clock(1000.0)
        self.loop.time = self.clock  # type: ignore[method-assign]
        asyncio._set_running_loop(self.loop)
        self.model = Model(set(listeners), self.clock.now)
        self.model.defaults = {way: rule for way, rule in ((IN, inbound), (OUT, outbound)) if rule is not None}
        self.network = FakeNetwork(self.loop, self.passed)
        self.peer: StrongholdP2p[Any, Any] = StrongholdP2p(
            keypair=US,
            config=CONFIG,
            firewall=FirewallRules(
                inbound=inbound and RULES[inbound],  # type: ignore[arg-type]
                outbound=outbound and RULES[outbound],  # type: ignore[arg-type]
            ),
            firewall_view=lambda body: len(body["padding"]),
            autonat=False,  # its services belong to a swarm
        )
        self.peer._parts.swarm = self.network  # type: ignore[assignment]
        self.peer._parts.owner.loop = self.loop
        self.peer._parts.responder.turns = Turns(self.loop, 3600)  # no turn is too long: the model knows none
        self.peer.on_request(lambda request: self.passed(request.body["id"]))
        self.events = self._listen()
        self.asked: list[FirewallRequest] = []
        self.answer_at_once: str | None = None
        if "queue" in listeners:
            self.queue = self.peer.firewall_requests(buffer=QUEUE)
        if "handler" in listeners:
            self.peer.on_firewall_request(self.hear)
        self.requests: list[ModelRequest] = []
        self.seen: set[int] = set()
        self.ids = itertools.count()

    # -- rules --

    @rule(word=some_rules, direction=some_directions, settle=st.booleans())
    def set_default(self, word: str | None, direction: Direction, settle: bool) -> None:
        self._set(self.model.defaults, [way for way in (IN, OUT) if way in direction], word)
        if word is None:
            self.peer.remove_firewall_default(direction=direction)
        else:
            self.peer.set_firewall_default(RULES[word], direction=direction)
        self.model.changed(None)
        self.finish(settle)

    @rule(peer=peers, word=some_rules, direction=some_directions, settle=st.booleans())
    def set_peer_rule(self, peer: PeerId, word: str | None, direction: Direction, settle: bool) -> None:
        self._set(self.model.peers, [(peer, way) for way in (IN, OUT) if way in direction], word)
        if word is None:
            self.peer.remove_peer_rule(peer, direction=direction)
        else:
            self.peer.set_peer_rule(str(peer), RULES[word], direction=direction)
        self.model.changed(peer)
        self.finish(settle)

    @rule(
        defaults=st.dictionaries(directions, rules),
        of_peers=st.dictionaries(st.tuples(peers, directions), rules, max_size=2),
        settle=st.booleans(),
    )
    def set_policy(self, defaults: dict[Direction, str], of_peers: dict[Where, str], settle: bool) -> None:
        self.model.policy_defaults, self.model.policy_peers = dict(defaults), dict(of_peers)
        self.peer._parts.firewall.set_policy(self._rules(defaults, of_peers))
        self.model.changed(None)
        self.finish(settle)

    # -- requests --

    @rule(peer=peers, kind=st.sampled_from(TYPES), padding=st.integers(0, 120), settle=st.booleans())
    def inbound(self, peer: PeerId, kind: Any, padding: int, settle: bool) -> None:
        request = self._request(peer, IN, kind, padding)
        connection = self.network.open(peer)
        offered = self.peer._parts._permits(peer, "/stronghold-p2p/1.0.0")
        self.model.arrive(request)
        assert offered == (self.model.rule_for(peer, IN)[0] != "reject")
        if offered:
            request.stream = FakeStream(connection, lambda stream, message: None)
            self.peer._parts.responder.accept(None, request.stream)  # type: ignore[arg-type]
            message = msgspec.json.encode(request.body)
            request.stream.receiver.data_received(varint.encode(len(message)) + message)
        self.finish(settle)

    @rule(peer=peers, kind=st.sampled_from(TYPES), padding=st.integers(0, 120), settle=st.booleans())
    def outbound(self, peer: PeerId, kind: Any, padding: int, settle: bool) -> None:
        request = self._request(peer, OUT, kind, padding)
        request.expires = self.clock.now + OUTBOUND_TIMEOUT
        request.dials = peer not in self.network.connections_by_peer
        self.model.call(request)
        call = self.peer.send_request(peer, request.body, timeout=OUTBOUND_TIMEOUT)
        request.call = self.loop.create_task(call)
        self.finish(settle)

    @precondition(lambda self: self.model.requests)
    @rule(which=st.integers(0, 5), settle=st.booleans())
    def cancel(self, which: int, settle: bool) -> None:
        request = self.model.requests[which % len(self.model.requests)]
        if request.call is not None:
            request.call.cancel()
        else:
            assert request.stream is not None
            if not request.stream.ended:
                request.stream.end("canceled")
                request.stream.receiver.stream_failed(ConnectionLost())
        self.model.cancel(request)
        self.finish(settle)

    @precondition(lambda self: self.network.connections_by_peer)
    @rule(which=st.integers(0, 2), settle=st.booleans())
    def disconnect(self, which: int, settle: bool) -> None:
        connected = list(self.network.connections_by_peer)
        peer = connected[which % len(connected)]
        self.network.lose(peer)
        for request in self.model.requests:
            if request.peer == peer and request.direction is IN:
                self.model.cancel(request)
        self.finish(settle)

    # -- questions --

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 5), answer=answers | st.just("reject network"), settle=st.booleans())
    def answer(self, which: int, answer: str, settle: bool) -> None:
        """Early or late, once or again."""
        index = -1 - which % len(self.asked)
        if answer == "reject network" and self.asked[index].network is None:
            answer = "reject"
        expected = self.model.answer(self.model.asked[index], answer)
        assert self._answer(self.asked[index], answer) == expected
        self.finish(settle)

    @rule()
    def the_handler_comes_or_leaves(self) -> None:
        self.finish(True)
        if "handler" in self.model.listeners:
            self.model.leave("handler")
            self.peer.remove_firewall_handler(self.hear)
        else:
            self.model.come("handler")
            self.peer.on_firewall_request(self.hear)
        self.finish(True)

    @precondition(lambda self: "queue" in self.model.listeners)
    @rule()
    def the_iterator_is_closed(self) -> None:
        self.finish(True)
        self.model.leave("queue")
        self.queue.close()
        self.finish(True)

    @precondition(lambda self: "handler" in self.model.listeners)
    @rule(answer=answers)
    def answer_the_next_at_once(self, answer: str) -> None:
        self.finish(True)
        self.model.answer_at_once = self.answer_at_once = answer

    @precondition(lambda self: "queue" in self.model.listeners)
    @rule()
    def take(self) -> None:
        self.finish(True)
        taking: asyncio.Task[FirewallRequest] = self.loop.create_task(self.queue.__anext__())
        self._run_loop()
        if self.model.take() is None:
            taking.cancel()
        else:
            self.asked.append(taking.result())
        self.finish(True)

    @rule(halves=st.sampled_from([1, 1, 2, 4, 11]))
    def pass_time(self, halves: int) -> None:
        """Never is time on its way while something has to be done."""
        self.finish(True)
        for _ in range(2 * halves):
            self.clock.now += 0.25
            self.model.pass_time(self.clock.now)
            self._run_loop()
        self.finish(True)

    # -- what must hold --

    def finish(self, settle: bool) -> None:
        if not settle:
            return
        self.model.settle()
        self._run_loop()
        model, approvals = self.model, self.peer._parts.approvals
        assert [self._seen(question) for question in self.asked] == [
            (asked.id, asked.kind, *asked.where, asked.first.type, asked.first.padding, len(asked.waiting))
            for asked in model.asked
        ]
        assert len(approvals._questions) == len(model.questions)
        assert len(approvals._waiting) == len(model.requests)
        assert Counter(self._told()) == Counter(model.told)  # what is due at one moment has no order
        assert Counter(self._told_of_questions()) == Counter(model.told_of_questions)
        self.events = self._listen()
        model.told.clear()
        model.told_of_questions.clear()
        assert self.peer.get_firewall_config() == self._rules(model.defaults, model.peers)
        for request in self.requests:
            assert self._outcome(request) == request.outcome
        self.requests = [request for request in self.requests if not request.outcome]

    def passed(self, id: int) -> None:
        """A request is with its handler, or on the wire: at this very moment it must be allowed."""
        assert id not in self.seen, "twice"
        self.seen.add(id)
        [request] = [request for request in self.requests if request.id == id]
        assert request.outcome == "passed" or self.model.may_pass(request)

    def teardown(self) -> None:
        try:
            self.finish(True)
            self.close()
        finally:
            asyncio._set_running_loop(None)
            self.loop.close()

    def close(self) -> None:
        for request in self.model.requests:
            if request.call is not None:
                request.call.cancel()
        self._run(self.peer.close())
        self._run_loop()
        approvals = self.peer._parts.approvals
        assert not approvals._questions
        assert not approvals._answerers
        assert (len(approvals._open), len(approvals._waiting), approvals._bytes.used) == (0, 0, 0)
        assert not asyncio.all_tasks(self.loop)
        assert not [timer for timer in self.loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]

    # -- details --

    def _listen(self) -> Any:
        return self.peer.events(buffer=10_000, decisions=True)

    def hear(self, question: FirewallRequest) -> None:
        self.asked.append(question)
        if self.answer_at_once is not None:
            answer, self.answer_at_once = self.answer_at_once, None
            assert self._answer(question, answer)

    def _run_loop(self) -> None:
        self._run(self.clock.settle())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Between the steps the loop counts as running too: what a step does is done from one of its callbacks."""
        asyncio._set_running_loop(None)
        self.loop.run_until_complete(coroutine)
        asyncio._set_running_loop(self.loop)

    def _request(self, peer: PeerId, direction: Direction, kind: Any, padding: int) -> ModelRequest:
        id = next(self.ids)
        body = {"id": id, "type": kind, "padding": "x" * padding}
        type_name = kind if isinstance(kind, str) else None
        size = CODEC.weight(msgspec.json.encode(body))
        request = ModelRequest(id, peer, direction, body, type_name, padding, size)
        self.requests.append(request)
        return request

    @staticmethod
    def _answer(question: FirewallRequest, answer: str) -> int:
        if answer == "approve":
            return question.approve()
        if answer == "reject":
            return question.reject()
        if answer == "reject network":
            return question.reject_network()
        return question.set_rule(RULES[answer])

    @staticmethod
    def _set(layer: dict[Any, str], keys: Iterable[Any], word: str | None) -> None:
        for key in keys:
            layer.pop(key, None)
            if word is not None:
                layer[key] = word

    @staticmethod
    def _rules(defaults: dict[Direction, str], of_peers: dict[Where, str]) -> FirewallRules:
        named = {key: RULES[word] for key, word in of_peers.items()}
        return FirewallRules(
            inbound=RULES[defaults[IN]] if IN in defaults else None,
            outbound=RULES[defaults[OUT]] if OUT in defaults else None,
            peers={peer: (named.get((peer, IN)), named.get((peer, OUT))) for peer, _ in named},
        )

    @staticmethod
    def _seen(question: FirewallRequest) -> tuple[Any, ...]:
        return (
            question.id,
            question.kind,
            question.peer,
            question.direction,
            question.type,
            question.view,
            question.waiting,
        )

    def _told(self) -> list[tuple[Any, ...]]:
        told = self._events(FirewallDecision)
        return [(one.peer, one.direction, one.type, one.rule, one.layer, one.allowed) for one in told]

    def _told_of_questions(self) -> list[tuple[Any, ...]]:
        opened, ended = self._events(FirewallRequestOpened), self._events(FirewallRequestEnded)
        about = [(one.id, one.peer, one.direction, one.type, one.kind) for one in opened + ended]
        return about[: len(opened)] + [
            (*this, one.outcome) for this, one in zip(about[len(opened) :], ended, strict=True)
        ]

    def _events(self, kind: type[Any]) -> list[Any]:
        return [event for _, event in self.events._kinds[kind]]

    def _outcome(self, request: ModelRequest) -> str:
        if request.id in self.seen:
            return "passed"
        if request.stream is not None:
            return {"": "", "released": "rejected", "canceled": "gone", "lost": "gone"}[request.stream.ended]
        if request.call is None:
            return "rejected"  # the protocol was not offered
        if not request.call.done():
            return ""
        if request.call.cancelled() or isinstance(request.call.exception(), RequestTimeout):
            return "gone"
        assert isinstance(request.call.exception(), NotPermitted)
        return "rejected"


FirewallMachine.TestCase.settings = settings(
    max_examples=examples(400),
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestFirewallModel = replaces_parts(FirewallMachine.TestCase)
