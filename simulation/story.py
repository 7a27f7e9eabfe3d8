"""What happens in a world: peers that ask each other, all that may come between, and at last a quiet time in which all works."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from stronghold_p2p import Direction, NotPermitted, Rule, StrongholdError

from .ledger import Ledger, RuleName, Rules
from .network import Machine, Nat, Network, Router
from .node import Node
from .world import world

__all__ = ["Story"]

SLACK: Final = 3.0
"""Seconds by which a request may end late: what a slow machine computes meanwhile."""

QUIET: Final = 75.0
"""Seconds after the last fault until all must work: dead connections are noticed, and every pause between two attempts has
passed."""

RESERVES_WITHIN: Final = 90.0
"""Seconds of that until a relay has a place for everybody."""

CLOSING: Final = 6.0
"""Seconds that one end of a connection may know of it alone."""

RULE_NAMES: Final[tuple[RuleName, ...]] = ("allow", "allow", "reads", "ask", "reject")


class Story:
    """One world from its beginning to its end."""

    def __init__(self, folder: Path, *, tell: Callable[[str], None]) -> None:
        self.ledger = Ledger()
        self.network = Network(is_ip6=world.chance.random() < 0.25)
        self._tell = tell
        self._keeps = world.chance.random() < 0.5
        """Peers are kept."""
        self._nodes: list[Node] = []
        public = "2a00:0:0:{:x}::1" if self.network.is_ip6 else "11.0.0.{}"
        self._public_ips = (public.format(number) for number in itertools.count(1))
        self._acts: set[asyncio.Task[None]] = set()
        self._build(folder)

    def _build(self, folder: Path) -> None:
        chance = world.chance
        names = iter("abcdefghi")
        relays = chance.choice((0, 1, 1, 2))
        for number in range(relays + chance.randint(1 if relays else 2, 3)):
            machine = Machine(self.network, name := next(names), next(self._public_ips))
            self._add(name, machine, folder, forwards=number < relays)
        for home in range(1, chance.randint(1, 2) + 1 if relays else 1):
            nat = Nat.NONE if self.network.is_ip6 else chance.choice((Nat.ENDPOINT_INDEPENDENT, Nat.SYMMETRIC))
            router = Router(self.network, next(self._public_ips), nat)
            inside = f"2a01:0:0:{home}::{{}}" if self.network.is_ip6 else f"192.168.{home}.{{}}"
            for number in range(2, chance.choice((3, 3, 4))):
                name = next(names)
                machine = Machine(self.network, name, inside.format(number), router)
                self._add(name, machine, folder).relay = self._nodes[chance.randrange(relays)]
        others = {node.id: node for node in self._nodes}
        for node in self._nodes:
            node.others = others

    def _add(self, name: str, machine: Machine, folder: Path, *, forwards: bool = False) -> Node:
        default = world.chance.choice((*RULE_NAMES, "allow", None))
        node = Node(name, machine, self.ledger, folder, Rules(default), forwards=forwards, may_keep=self._keeps)
        self._nodes.append(node)
        return node

    # -- from the beginning to the end -----------------------------------------------------------

    async def live(self) -> None:
        """All of it."""
        self._tell(str(self.network))
        for node in self._nodes:
            self._tell(node.description)
        await asyncio.gather(*(node.boot() for node in self._nodes))
        for _ in range(world.chance.randint(20, 60)):
            await asyncio.sleep(world.chance.expovariate(2.0))
            self._act(self._chance_act())
        await self._calm_down()
        self._all_see()
        await self._all_kept()
        await self._all_connect()
        await self._all_give_up()
        world.chance.shuffle(self._nodes)
        for node in self._nodes:
            if world.chance.random() < 0.5:
                self._act(self._close(node))  # while the next one does
            else:
                await self._close(node)
        await asyncio.gather(*self._acts)

    def _act(self, act: Awaitable[None]) -> None:
        task = asyncio.ensure_future(act)
        self._acts.add(task)
        task.add_done_callback(self._acted)

    def _acted(self, task: asyncio.Task[None]) -> None:
        self._acts.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def _chance_act(self) -> Awaitable[None]:
        chance = world.chance
        node, other = chance.sample(self._nodes, 2)
        acts: dict[Callable[[], Awaitable[None]], int] = {
            lambda: self._ask(node, other): 12,
            lambda: self._burst(node, other): 4,
            lambda: self._connect(node, other): 2,
            lambda: self._disconnect(node, other): 2,
            lambda: self._set_rule(node, other): 4,
            lambda: self._reload(node): 1,
            lambda: self._mute(node): 1,
            lambda: self._suspend(node): 1,
            lambda: self._ban(node, other): 2,
            lambda: self._keep(node, other): 2,
            lambda: self._restart(node): 2,
            lambda: self._part(node, other): 2,
            lambda: self._jump(node): 1,
            lambda: self._move(node): 1,
            lambda: self._restart_router(node): 1,
        }
        return chance.choices(list(acts), list(acts.values()))[0]()

    # -- requests --------------------------------------------------------------------------------

    async def _ask(self, node: Node, other: Node, *, must: bool = False) -> None:
        """``must``: nothing may keep the request from being answered."""
        process, chance = node.process, world.chance
        if process is None:
            return
        kind = chance.choice(("read", "write"))
        if must and other.rules.verdict(node.name, kind) != "allow":
            kind = "read"
        ask = self.ledger.ask(node.name, other.name, kind)
        do = "echo" if must else chance.choice(("echo", "echo", "echo", "wait", "fail"))
        body: dict[str, Any] = {
            "type": kind,
            "id": ask.id,
            "do": do,
            "for": chance.random() * 6,
            "size": chance.choice((0, 0, 100, 20_000, 300_000)) if not must or self.network.is_fast else 100,
        }
        if not must and chance.random() < 0.1:
            body["padding"] = "x" * chance.choice((1000, 100_000, 600_000))
        timeout = 60.0 if must else chance.choice((None, None, 0.05, 1.0, 5.0, 30.0))
        to = other.address if chance.random() < 0.3 else other.id
        began = world.now
        task = process.start(node.peer.send_request(to, body, timeout=timeout))
        cancelled = not must and chance.random() < 0.1
        if cancelled:
            asyncio.get_running_loop().call_later(chance.random(), task.cancel)
        limit = (timeout or node.config.request_timeout) + SLACK
        await asyncio.wait({task, process.ended}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not process.is_alive and not task.done():
            return
        if not task.done():
            self.ledger.complain(f"request {ask.id} of {node} to {other} has not ended within {limit:g} s: {task!r}")
            return
        self.ledger.ended(ask)
        outcome = "cancelled" if task.cancelled() else task.exception() or "answered"
        name = outcome if isinstance(outcome, str) else type(outcome).__name__
        self._tell(
            f"request {ask.id} {node} to {other} ({kind}, {do}): {outcome if must else name}, {world.now - began:.3f} s"
        )
        self.ledger.counts[f"asked, {name}"] += 1
        if name == "answered":
            response = task.result()
            if response != {"id": ask.id, "by": other.name, "padding": "x" * body["size"]} or ask.handled != 1:
                self.ledger.complain(
                    f"request {ask.id} to {other}, handled {ask.handled} times, got {str(response)[:80]}"
                )
        elif name == "cancelled":
            if not cancelled:
                self.ledger.complain(f"request {ask.id} was cancelled by nobody")
        elif not isinstance(outcome, StrongholdError):
            self.ledger.complain(f"request {ask.id} raised {outcome!r}")
        if isinstance(outcome, NotPermitted) and ask.handled:
            self.ledger.complain(f"request {ask.id} was handled, and {outcome!r}")
        if must and name != "answered":
            self.ledger.complain(f"nothing keeps {node} from asking {other}, and {outcome!r}")

    async def _burst(self, node: Node, other: Node) -> None:
        await asyncio.gather(*(self._ask(node, other) for _ in range(world.chance.randint(2, 12))))

    # -- what programs do ------------------------------------------------------------------------

    async def _connect(self, node: Node, other: Node) -> None:
        await self._call(node, lambda: node.peer.connect(other.id), within=node.config.connection_timeout + SLACK)

    async def _disconnect(self, node: Node, other: Node) -> None:
        await self._call(node, lambda: node.peer.disconnect(other.id), within=node.config.close_timeout + SLACK)

    async def _call(self, node: Node, work: Callable[[], Any], *, within: float) -> None:
        process = node.process
        if process is None:
            return
        task = process.start(work())
        await asyncio.wait({task, process.ended}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            if process.is_alive:
                self.ledger.complain(f"a call at {node} has not ended within {within:g} s: {task!r}")
        elif (
            not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, StrongholdError)
        ):
            self.ledger.complain(f"a call at {node} raised {error!r}")

    async def _set_rule(self, node: Node, about: Node) -> None:
        if node.process is not None and not node.busy:
            rule = world.chance.choice(RULE_NAMES)
            self._tell(f"{node}: rule for {about}: {rule}")
            node.set_rule(about, rule)

    async def _reload(self, node: Node) -> None:
        await asyncio.sleep(0.1)  # not just behind a change
        await self._call(node, lambda: node.peer.reload_policy(), within=SLACK)

    async def _mute(self, node: Node) -> None:
        """It sends nothing, for a while."""
        process, peer = node.process, node.peer
        if process is None or node.busy or node.policy is not None:
            return
        process.call(lambda: peer.set_firewall_default(Rule.REJECT_ALL, direction=Direction.OUTBOUND))
        self.ledger.muted[node.name].append((world.now, True))
        await asyncio.sleep(world.chance.random() * 5)
        self.ledger.muted[node.name].append((world.now, False))
        if process.is_alive and peer is node.peer:
            process.call(lambda: peer.set_firewall_default(Rule.ALLOW_ALL, direction=Direction.OUTBOUND))

    async def _suspend(self, node: Node) -> None:
        """It answers nothing, for a while."""
        process, peer = node.process, node.peer
        if process is None or node.busy:
            return
        times = self.ledger.inbound[node.name]
        self._tell(f"{node}: suspended")
        node.busy = True
        times.change(lambda rules: replace(rules, suspended=True))
        process.call(peer.suspend_requests)
        await asyncio.sleep(world.chance.random() * 3)
        times.change(lambda rules: replace(rules, suspended=False))
        process.call(peer.resume_requests)
        node.busy = False

    async def _ban(self, node: Node, other: Node) -> None:
        """For a while."""
        if node.process is None or node.busy:
            return
        peer, times = node.peer, self.ledger.inbound[node.name]
        self._tell(f"{node}: bans {other}")
        node.busy = True
        times.change(lambda rules: replace(rules, banned=rules.banned | {other.name}))
        await self._call(node, lambda: peer.ban_peer(other.id), within=node.config.close_timeout + SLACK)
        await asyncio.sleep(world.chance.random() * 5)
        times.change(lambda rules: replace(rules, banned=rules.banned - {other.name}))
        await self._call(node, lambda: peer.unban_peer(other.id), within=SLACK)
        node.busy = False

    async def _keep(self, node: Node, other: Node) -> None:
        """For a while, or to the end."""
        process = node.process
        if process is None or not self._keeps:
            return
        node.keep(other)
        if world.chance.random() < 0.3:
            return
        await asyncio.sleep(world.chance.random() * 20)
        if process.is_alive and node.process is process and not node.busy:
            node.unkeep(other)

    async def _restart(self, node: Node) -> None:
        """Ends it, as it should or should not, and starts it again after a while."""
        if node.process is None or node.busy:
            return
        node.busy = True
        how = world.chance.choice(("close", "kill", "power"))
        self._tell(f"{node}: {how}")
        self.ledger.counts[f"ends by {how}"] += 1
        if how == "close":
            await node.close()
        else:
            node.end(power=how == "power")
        await asyncio.sleep(world.chance.random() * 8)
        await node.boot()
        self._tell(f"{node}: is back")
        node.busy = False

    async def _close(self, node: Node) -> None:
        await node.close()
        self._tell(f"{node}: closed")

    # -- what the world does ---------------------------------------------------------------------

    async def _part(self, node: Node, other: Node) -> None:
        """The two cannot reach each other, for a while; or one of them nobody."""
        machines = self.network.machines if world.chance.random() < 0.5 else [other.machine]
        pairs = {frozenset((node.machine, machine)) for machine in machines if machine is not node.machine}
        self._tell(f"{node}: apart from {', '.join(machine.name for machine in machines)}")
        self.network.apart |= pairs
        await asyncio.sleep(world.chance.choice((0.5, 5.0, 20.0)))
        self.network.apart -= pairs

    async def _jump(self, node: Node) -> None:
        """Somebody sets its clock."""
        seconds = world.chance.choice((-86400.0, -30.0, -1.0, 1.0, 30.0, 86400.0))
        self._tell(f"{node}: its clock jumps by {seconds:g} s")
        node.machine.skew += seconds

    async def _move(self, node: Node) -> None:
        """It has another address."""
        if node.machine.router is None:
            node.machine.move(next(self._public_ips))
            self._tell(f"{node}: is at {node.machine.ip}")
            self._all_meet()

    async def _restart_router(self, node: Node) -> None:
        if node.machine.router is not None:
            self._tell(f"{node}: its router restarts")
            node.machine.router.restart()

    # -- the end ---------------------------------------------------------------------------------

    async def _calm_down(self) -> None:
        """Ends all faults, and waits for what they have begun."""
        await asyncio.gather(*self._acts)
        self.network.heal()
        self._tell("all is quiet from now on")
        self._all_meet()
        await asyncio.sleep(QUIET)

    def _all_meet(self) -> None:
        for node in self._nodes:
            if node.process is not None and not node.busy:
                node.process.call(node.meet)

    async def _all_connect(self) -> None:
        """All that may ask each other can."""
        for node in self._nodes:
            assert node.process is not None
            if not node.process.call(node.has_its_rules):
                self.ledger.complain(f"{node} does not apply its last rules")
            self.ledger.inbound[node.name].settle()
        end = world.now + RESERVES_WITHIN - QUIET
        for node in self._nodes:
            while node.relay is not None and not _is_reserved(node):
                if world.now > end:
                    self.ledger.complain(f"{node} has no place at its relay {node.relay}")
                    break
                await asyncio.sleep(0.5)
        pairs = [pair for pair in itertools.permutations(self._nodes, 2) if self._may_ask(*pair)]
        world.chance.shuffle(pairs)
        await asyncio.gather(*(self._ask(*pair, must=True) for pair in pairs))

    async def _all_kept(self) -> None:
        """Who is kept is connected, and no connection is one at one end alone."""
        end = world.now + RESERVES_WITHIN - QUIET
        while apart := [(node, other) for node in self._nodes for other in node.keeps - node.connected]:
            if world.now > end:
                for node, other in apart:
                    self.ledger.complain(f"{node} keeps {other}, and is not connected to it")
                break
            await asyncio.sleep(0.5)
        one_sided = self._one_sided()
        await asyncio.sleep(CLOSING)
        for node, other in one_sided & self._one_sided():
            self.ledger.complain(f"{node} is connected to {other}, which knows nothing of it")

    def _all_see(self) -> None:
        """Who is at home finds the others there."""
        for node, other in itertools.permutations(self._nodes, 2):
            if node.mdns and other.mdns and node.machine.router is other.machine.router:
                addresses = node.sees.get(other.id, ())
                if not any(other.machine.ip in str(address) for address in addresses):
                    self.ledger.complain(f"{node} has found {other} at {addresses}, which is at {other.machine.ip}")

    def _one_sided(self) -> set[tuple[Node, Node]]:
        """Connections, most of which are just made or closed."""
        connected = {node: node.connected for node in self._nodes}
        return {(node, other) for node in self._nodes for other in connected[node] if node not in connected[other]}

    async def _all_give_up(self) -> None:
        """A request that its sender gives up has ended at its receiver soon."""
        pairs = [pair for pair in itertools.permutations(self._nodes, 2) if self._may_ask(*pair)]
        await asyncio.gather(*(self._give_up(*pair) for pair in pairs if pair[1].answers == "async"))

    async def _give_up(self, node: Node, other: Node) -> None:
        assert node.process is not None
        ask = self.ledger.ask(node.name, other.name, "read")
        body = {"type": "read", "id": ask.id, "do": "wait", "for": 10.0, "size": 0}
        task = node.process.start(node.peer.send_request(other.id, body, timeout=60.0))
        await asyncio.sleep(1.5)
        task.cancel()
        await asyncio.sleep(1.0)
        if ask.id in self.ledger.at_work:
            self.ledger.complain(f"{node} has given up request {ask.id} a second ago, and {other} still works on it")

    def _may_ask(self, node: Node, other: Node) -> bool:
        return other.rules.verdict(node.name, "read") == "allow"


def _is_reserved(node: Node) -> bool:
    assert node.process is not None
    listeners = node.process.call(lambda: node.peer.listeners)
    return any("p2p-circuit" in str(address) for listener in listeners for address in listener.addresses)
