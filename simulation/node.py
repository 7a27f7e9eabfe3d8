"""A peer of the world: the library's own, with what a program around it does."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionEstablished,
    Direction,
    Dropped,
    Event,
    FirewallDecision,
    FirewallRequest,
    FirewallRequestEnded,
    FirewallRequestOpened,
    FirewallRules,
    Keypair,
    Multiaddr,
    PeerDiscovered,
    PeerExpired,
    PeerId,
    PolicyFailed,
    PolicyLoaded,
    RelayServer,
    Request,
    RequestHandled,
    Rule,
    StateFailed,
    StrongholdError,
    StrongholdP2p,
)

from .ledger import Ledger, RuleName, Rules, Times
from .network import Machine
from .process import Process
from .world import EPOCH, START, world

__all__ = ["Node"]

CLOSES_WITHIN: Final = 15.0
"""Seconds of a close, with what a slow machine computes: three times ``Config.close_timeout``."""

RULES: Final[dict[RuleName, Rule]] = {
    "allow": Rule.ALLOW_ALL,
    "reject": Rule.REJECT_ALL,
    "ask": Rule.ASK,
    "reads": Rule.restricted(allow={"read"}),
}

IN_POLICY: Final[dict[RuleName, str]] = {"allow": '"allow"', "reject": '"reject"', "ask": '"ask"', "reads": '["read"]'}

PORT: Final = 4001

Peer = StrongholdP2p[Any, Any]


class Node:
    """One identity on one machine: it starts, ends in several ways, and starts again."""

    def __init__(
        self,
        name: str,
        machine: Machine,
        ledger: Ledger,
        folder: Path,
        rules: Rules,
        *,
        forwards: bool,
        may_keep: bool,
    ) -> None:
        """``forwards``: it is a relay. ``may_keep``: peers are kept in this world, which takes streams, and circuits that last."""
        chance = world.chance
        self.name = name
        self.machine = machine
        self.keypair = _keypair()
        self.relay: Node | None = None
        """Through which it listens; None: it can be dialed."""
        self.forwards = forwards
        self.host = f"{name}.example" if machine.router is None and chance.random() < 0.25 else ""
        """Its name in DNS."""
        if self.host:
            machine.network.names[self.host] = machine
        self.mdns = machine.router is not None and chance.random() < 0.5
        self.sees: dict[PeerId, tuple[Multiaddr, ...]] = {}
        """Whom its process has found at home, and where."""
        self.answers = chance.choice(("plain", "async", "async", "iterator"))
        self.transport = chance.choice(("", "", "/ws", "/tls/ws"))
        """What stands behind TCP in its address."""
        self.config = _config(many_streams=forwards or may_keep)
        self._max_circuit_seconds = 300.0 if may_keep else 30.0
        self.state = folder / f"{name}.db" if chance.random() < 0.3 else None
        self.policy = folder / f"{name}.toml" if chance.random() < 0.3 else None
        self.answerer = chance.choice(("approve", "approve all", "reject", "silent", "none"))
        """What is said to questions."""
        self.peer: Peer
        self.process: Process | None = None
        """None: it does not run."""
        self.others: dict[PeerId, Node] = {}
        """All nodes, by peer id."""
        self.keeps_all = may_keep and chance.random() < 0.4
        """All others are kept from its start on."""
        self.keeps: set[Node] = set()
        """Those that its process keeps."""
        self.busy = False
        """Something is being done to it."""
        self._ledger = ledger
        ledger.inbound[name] = Times(rules)
        ledger.muted[name] = []

    def __repr__(self) -> str:
        return self.name

    @property
    def description(self) -> str:
        """What it is, for people."""
        where = f"at {self.host or self.machine.ip}" if self.relay is None else f"at home, listens through {self.relay}"
        files = [file.name for file in (self.state, self.policy) if file is not None]
        return (
            f"{self.name}: {where}{', a relay' if self.forwards else ''}; answers: {self.answers}, "
            f"questions: {self.answerer}; default: {self.rules.default}; {', '.join(files)}; {self.id}"
        )

    @property
    def id(self) -> PeerId:
        return self.keypair.peer_id

    @property
    def rules(self) -> Rules:
        return self._ledger.inbound[self.name].last

    @property
    def address(self) -> str:
        """Where others reach it."""
        if self.relay is not None:
            return f"{self.relay.address}/p2p-circuit/p2p/{self.id}"
        version = 6 if self.machine.network.is_ip6 else 4
        host = f"dns{version}/{self.host}" if self.host else f"ip{version}/{self.machine.ip}"
        return f"/{host}/tcp/{PORT}{self.transport}/p2p/{self.id}"

    # -- its life --------------------------------------------------------------------------------

    async def boot(self) -> None:
        """Returns when it listens."""
        times = self._ledger.inbound[self.name]
        if self.state is None:
            times.change(lambda rules: replace(rules, banned=frozenset()))
        if self.policy is not None:
            self._write_policy()
        self.machine.is_on = True
        process = self.process = Process(self.machine)
        process.call(self._make)
        await self._finish(process, self._start(), within=40.0, what="start")

    def _make(self) -> None:
        rules = self.rules
        own = {} if self.policy is not None else {node.id: rules.own.get(node.name) for node in self.others.values()}
        peer: Peer = StrongholdP2p(
            keypair=self.keypair,
            firewall=FirewallRules(
                inbound=RULES[rules.default] if self.policy is None and rules.default is not None else None,
                peers={id: (RULES[rule], None) for id, rule in own.items() if rule is not None},
            ),
            config=self.config,
            policy=self.policy,
            state=self.state,
            relay=RelayServer(max_seconds=self._max_circuit_seconds) if self.forwards else None,
            mdns=self.mdns,
        )
        self.peer = peer
        self.keeps.clear()
        self.sees.clear()
        if self.answers == "plain":
            peer.on_request(self._answer)
        elif self.answers == "async":
            peer.on_request(self._answer_later)
        if self.answerer != "none":
            peer.on_firewall_request(self._decide)

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._watch(self.peer.events(buffer=100_000, decisions=True), Counter()))]
        if self.answers == "iterator":
            tasks.append(loop.create_task(self._serve(self.peer.requests(buffer=4))))
        self._reading = tasks
        for task in tasks:
            task.add_done_callback(self._read)
        await self.peer.start()
        self._ledger.muted[self.name].append((world.now, False))  # whatever the one before was
        self._ledger.inbound[self.name].settle()
        self.meet()
        if self.keeps_all:
            for node in self.others.values():
                if node is not self:
                    self.keep(node)
        any_host = "ip6/::" if self.machine.network.is_ip6 else "ip4/0.0.0.0"
        certificate = ("shown", "by all") if "tls" in self.transport else None
        await self.peer.listen(f"/{any_host}/tcp/{PORT}{self.transport}", certificate=certificate)
        if self.relay is not None:
            tasks.append(loop.create_task(self._reserve(self.peer, self.relay)))

    def _read(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._ledger.complain(f"{self.name}: what reads from the peer raised {task.exception()!r}")

    def meet(self) -> None:
        """Learns where the others are."""
        for node in self.others.values():
            if node is not self:
                self.peer.addresses.add(node.address)

    def keep(self, other: Node) -> None:
        assert self.process is not None
        self.keeps.add(other)
        self.process.call(self.peer.keep, other.id)

    def unkeep(self, other: Node) -> None:
        assert self.process is not None
        self.keeps.discard(other)
        self.process.call(self.peer.unkeep, other.id)

    @property
    def connected(self) -> set[Node]:
        """To whom it is."""
        assert self.process is not None
        return {self.others[connection.peer] for connection in self.process.call(lambda: self.peer.connections)}

    async def _reserve(self, peer: Peer, relay: Node) -> None:
        """Listens through it, whenever that will be."""
        while True:
            try:
                await peer.listen_via_relay(relay.address)
            except StrongholdError:
                await asyncio.sleep(3.0)
            else:
                return

    async def close(self) -> None:
        """Ends it as it should."""
        process, peer = self.process, self.peer
        assert process is not None
        swarm = peer._parts.swarm
        for task in self._reading[2 if self.answers == "iterator" else 1 :]:
            task.cancel()
        await self._finish(process, peer.close(), within=CLOSES_WITHIN, what="close")
        if process.is_alive:
            await asyncio.wait(
                self._reading, timeout=CLOSES_WITHIN
            )  # it may be at work on the last of what it has read
            await asyncio.sleep(0.2)
            for left in process.left() if process.is_alive else ():
                self._ledger.complain(f"{self.name} has closed, and {left}")
        if process.is_alive and swarm is not None:
            left_over = {
                "connections": swarm.connections,
                "dials": swarm._dialer.dials,
                "upgrades": swarm._upgrading,
                "bytes": swarm.memory.used,
                "deadlines": {tick: items for tick, items in swarm.deadlines._ticks.items() if items},
            }
            for what, left_of in left_over.items():
                if left_of:
                    self._ledger.complain(f"{self.name} has closed, and has {what}: {left_of!r}")
        if process.is_alive:
            process.kill()
        self.process = None

    def end(self, *, power: bool) -> None:
        """Ends it as it should not."""
        assert self.process is not None
        (self.process.lose_power if power else self.process.kill)()
        self.process = None

    async def _finish(self, process: Process, work: Any, *, within: float, what: str) -> None:
        """Has the process do that, unless it ends before."""
        task = process.start(work)
        await asyncio.wait({task, process.ended}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if not process.is_alive:
            return
        if not task.done():
            self._ledger.complain(f"{self.name} did not {what} within {within:g} s: {task!r}")
        elif task.exception() is not None:
            self._ledger.complain(f"{self.name} did not {what}: {task.exception()!r}")

    # -- what it does ----------------------------------------------------------------------------

    def set_rule(self, about: Node, rule: RuleName) -> None:
        """By a call, or in the policy file."""
        assert self.process is not None
        times = self._ledger.inbound[self.name]
        times.may_be(times.last.having(about.name, rule))
        if self.policy is not None:
            self._write_policy()
            return
        self.process.call(lambda: self.peer.set_peer_rule(about.id, RULES[rule], direction=Direction.INBOUND))
        times.settle()

    def has_its_rules(self) -> bool:
        """Whether those in force are the last that the world has set."""
        rules = self.rules
        wanted: dict[PeerId | None, RuleName | None] = {None: rules.default or (None if self.policy is None else "ask")}
        wanted |= {id: rules.own[node.name] for id, node in self.others.items() if node.name in rules.own}
        in_force = {one.peer: one.rule for one in self.peer.rules_in_force() if one.direction is Direction.INBOUND}
        return in_force == {peer: rule and RULES[rule] for peer, rule in wanted.items()}

    def _write_policy(self) -> None:
        assert self.policy is not None
        rules = self.rules
        lines = ["[default]", f"inbound = {IN_POLICY[rules.default or 'ask']}"]
        for node in self.others.values():
            if node.name in rules.own:
                lines += [f"[peers.{node.name}]", f'id = "{node.id}"', f"inbound = {IN_POLICY[rules.own[node.name]]}"]
        self.policy.write_text("\n".join(lines) + "\n")
        date = int((EPOCH + world.now - START) * 1e9)
        os.utime(self.policy, ns=(date, date))  # the time of the world, as of every file in it

    # -- what it answers -------------------------------------------------------------------------

    def _answer(self, request: Request[Any]) -> Any:
        body = request.body
        self._begin(request, waited=False)
        if body["do"] == "fail":
            raise RuntimeError("as it was asked to")
        return self._response(body)

    async def _answer_later(self, request: Request[Any]) -> Any:
        body = request.body
        self._begin(request, waited=False)
        if body["do"] == "fail":
            raise RuntimeError("as it was asked to")
        if body["do"] == "wait":
            self._ledger.at_work.add(body["id"])
            try:
                await asyncio.sleep(body["for"])
            finally:
                self._ledger.at_work.discard(body["id"])
        return self._response(body)

    async def _serve(self, requests: Any) -> None:
        async for request in requests:
            body = request.body
            self._begin(request, waited=True)
            if body["do"] == "fail":
                await request.decline()
                continue
            if body["do"] == "wait":
                await asyncio.sleep(body["for"] / 4)
            await request.respond(self._response(body))

    def _begin(self, request: Request[Any], *, waited: bool) -> None:
        self._ledger.handled(request.body["id"], self.others[request.peer].name, self.name, waited=waited)

    def _response(self, body: Any) -> Any:
        return {"id": body["id"], "by": self.name, "padding": "x" * body["size"]}

    # -- what it is asked about ------------------------------------------------------------------

    async def _decide(self, question: FirewallRequest) -> None:
        await asyncio.sleep(world.chance.random() * 2)
        name = self.others[question.peer].name
        self._ledger.counts["questions"] += 1
        # Said before, since what waits is handled at once.
        if self.answerer == "approve" or (self.answerer == "approve all" and self.policy is not None):
            approvals = self._ledger.approvals.setdefault((self.name, name), [])
            approvals.append(world.now)
            if not question.approve():
                approvals.pop()
        elif self.answerer == "approve all":
            times = self._ledger.inbound[self.name]
            times.may_be(times.last.having(name, "allow"))
            if question.approve_all():
                times.settle()
            else:
                times.drop_last()
        elif self.answerer == "reject":
            question.reject()
        else:
            await asyncio.sleep(60)

    # -- what it sees ----------------------------------------------------------------------------

    async def _watch(self, events: Any, open_: Counter[Any]) -> None:
        """Each thing that begins ends once."""
        async for event in events:
            self._see(event, open_)
        for what, count in open_.items():
            if count:
                self._ledger.complain(f"{self.name} was told of {count} more beginnings than ends of {what}")

    def _see(self, event: Event, open_: Counter[Any]) -> None:
        match event:
            case ConnectionEstablished(connection):
                open_["connections", connection.peer] += 1
                self._ledger.counts[f"connections, {connection.path.transport}"] += 1
            case ConnectionClosed(connection):
                self._end(open_, "connections", connection.peer)
            case FirewallDecision(id=id, direction=Direction.INBOUND, allowed=True):
                open_["requests", id] += 1
            case RequestHandled(id, _, outcome):
                self._end(open_, "requests", id)
                self._ledger.counts[f"requests {outcome}"] += 1
            case FirewallRequestOpened(id):
                open_["questions", id] += 1
            case FirewallRequestEnded(id):
                self._end(open_, "questions", id)
            case PeerDiscovered(peer, addresses):
                self.sees[peer] = addresses
            case PeerExpired(peer):
                self.sees.pop(peer, None)
            case PolicyLoaded() if self.has_its_rules():
                self._ledger.inbound[self.name].settle()
            case PolicyFailed() | StateFailed() | Dropped():
                self._ledger.complain(f"{self.name} saw {event!r}")
            case _:
                self._ledger.counts[type(event).__name__] += 1

    def _end(self, open_: Counter[Any], what: str, which: object) -> None:
        open_[what, which] -= 1
        if open_[what, which] < 0:
            self._ledger.complain(f"{self.name} was told of an end more than of beginnings of {what} {which}")


def _config(*, many_streams: bool) -> Config:
    """With limits that make much wait and little fail: all that may be asked can be nevertheless. A relay refuses what it has no
    stream for; and circuits to all four peers at home have room beside the stream of our requests to the relay: each stays until
    it is idle, perhaps for as long as a dial may take."""
    chance = world.chance
    return Config(
        handler_timeout=4.0,
        firewall_timeout=4.0,
        idle_timeout=chance.choice((0.3, 2.0, 10.0)),
        turn_time=chance.choice((0.0002, 0.005)),
        dial_stagger=chance.choice((0.01, 0.25)),
        max_dials_per_peer=chance.choice((4, 8)),
        max_pending_outbound_connections=chance.choice((12, 256)),
        max_connections_per_peer=chance.choice((2, 5)),
        max_outbound_streams_per_connection=256 if many_streams else chance.choice((5, 256)),
        max_requests_in_flight_per_peer=chance.choice((1, 4, 1024)),
        max_firewall_questions_per_peer=chance.choice((1, 32)),
        max_send_buffer=chance.choice((2048, 256 * 1024)),
    )


def _keypair() -> Keypair:
    """From the chance of the world."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Keypair(Ed25519PrivateKey.from_private_bytes(world.chance.randbytes(32)))
