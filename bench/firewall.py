"""What the firewall costs: one decision, and the requests a second that are left with it.

* a decision of `Gate.decide` with 10,000 peers' own rules, each with an end of its own, for a peer whose rule restricts types;
* the same by a policy file with 10,000 peers in groups, whose rules have ends, and with a limit of the type;
* requests a second (two processes, 32 in flight) with that rule, as a share of those with `Rule.ALLOW_ALL`; rounds alternate.

    python -m bench.firewall [--rounds 5] [--seconds 1] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bench import limit
from stronghold_p2p import Direction, FirewallRules, Keypair, PeerId, Policy, Rule, StrongholdP2p
from stronghold_p2p.config import Config
from stronghold_p2p.event_hub import EventHub
from stronghold_p2p.firewall.approvals import Approvals
from stronghold_p2p.firewall.gate import Gate
from stronghold_p2p.firewall.quotas import Limit, Place
from stronghold_p2p.firewall.rules import Firewall
from stronghold_p2p.requests.codec import make_codec
from stronghold_p2p.resources.refusals import Refusals

PEERS = 10_000
GROUP = 100
IN_FLIGHT = 32
BODY = {"type": "Ping", "text": "x" * 34}
"""64 bytes as JSON."""
DECISION_GOAL_US = 5
SHARE_GOAL = 0.95


class Inbound:
    """A request, as far as the gate knows it."""

    decision_id = refusal = 0
    place: Place | None = None

    def evict(self) -> None:
        raise AssertionError("no rule ends here")

    def leave(self, gate: Gate, peer: PeerId) -> None:
        """It has ended."""
        if self.place is not None:
            self.place.leave()
        if gate.tenancy.tenants:
            gate.tenancy.leave(self, peer)


def rules(peer: PeerId) -> FirewallRules:
    """Rules for `peer` among 10,000; each ends tomorrow, at another second."""
    restricted = Rule.restricted(allow={"Ping", "Read", "List"})
    peers = [*(PeerId(b"\x00\x04" + number.to_bytes(4)) for number in range(PEERS)), peer]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    ends = (tomorrow + timedelta(seconds=number) for number in range(PEERS + 1))
    own = {each: (restricted.replace(until=end), None) for each, end in zip(peers, ends, strict=True)}
    return FirewallRules(inbound=Rule.REJECT_ALL, peers=own)


def policy(peer: PeerId) -> Policy:
    """A policy with `peer` among 10,000 in groups."""
    peers = [PeerId(b"\x12\x20" + number.to_bytes(32)) for number in range(PEERS - 1)]
    peers.append(peer)
    rule = 'inbound = { allow = ["Ping", "Read"], ask = ["Sign"], until = 2100-01-01T00:00:00Z, strict = true }'
    groups = "\n".join(
        f"[groups.g{first}]\npeers = {list(map(str, peers[first : first + GROUP]))}\n{rule}"
        for first in range(0, PEERS, GROUP)
    )
    return Policy.parse(f'default.inbound = "reject"\ntypes.Ping.max_bytes = 4096\n{groups}')


def decision_us(peer: PeerId, firewall: Firewall, limits: Mapping[str, Limit], calls: int = 100_000) -> float:
    """Microseconds of one decision, the best of five: of the processor's time, as others may use the machine, too."""
    codec = make_codec("json", None, max_size=2**20)
    events = EventHub()
    approvals = Approvals(firewall, Config(), events.emit, Refusals(events.emit))
    gate = Gate(firewall, approvals, None, events)
    gate.quotas.set_limits(limits, {})
    message = codec.encode(BODY)
    inbound = Inbound()
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(calls):
            gate.decide(peer, Direction.INBOUND, codec, BODY, message, None, inbound)
            inbound.leave(gate, peer)
        best = min(best, time.process_time() - start)
    return best / calls * 1e6


def decisions() -> dict[str, float]:
    peer = Keypair.generate().peer_id
    by_policy, its = Firewall(FirewallRules()), policy(peer)
    by_policy.set_policy(its.rules, its.rule_lines)

    async def measured() -> dict[str, float]:  # the limits go by the clock of a loop
        return {
            "decision_us": round(decision_us(peer, Firewall(rules(peer)), {}), 2),
            "policy_decision_us": round(decision_us(peer, by_policy, its.type_limits), 2),
        }

    return asyncio.run(measured())


async def listen(firewall: FirewallRules) -> None:
    async with StrongholdP2p[Any, Any](firewall=firewall) as peer:
        peer.on_request(lambda request: request.body)
        print(await peer.listen(), flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def requests_per_second(keypair: Keypair, address: str, seconds: float) -> float:
    async with StrongholdP2p[Any, Any](keypair=keypair) as peer:
        await peer.send_request(address, BODY)
        count = 0
        start = time.perf_counter()

        async def ask() -> None:
            nonlocal count
            while time.perf_counter() - start < seconds:
                await peer.send_request(address, BODY)
                count += 1

        await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
        return count / (time.perf_counter() - start)


def measure(keypair: Keypair, kind: str, seconds: float) -> float:
    command = [sys.executable, "-m", "bench.firewall", "--listen", kind, str(keypair.peer_id)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdin is not None
        assert listener.stdout is not None
        try:
            address = listener.stdout.readline().strip()
            with asyncio.Runner(loop_factory=limit.loop_factory()) as runner:
                return runner.run(requests_per_second(keypair, address, seconds))
        finally:
            listener.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="What the firewall costs.")
    parser.add_argument("--rounds", type=int, default=5, help="the share is the median of these (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--listen", nargs=2, metavar=("KIND", "PEER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listen:
        kind, peer = arguments.listen
        firewall = FirewallRules.allow_all() if kind == "allow" else rules(PeerId.parse(peer))
        with asyncio.Runner(loop_factory=limit.loop_factory()) as runner:
            runner.run(listen(firewall))
        return
    keypair = Keypair.generate()
    shares = [
        measure(keypair, "restrict", arguments.seconds) / measure(keypair, "allow", arguments.seconds)
        for _ in range(arguments.rounds)
    ]
    figures = {**decisions(), "share": round(statistics.median(shares), 3)}
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"a decision among {PEERS:,} peers' rules  {figures['decision_us']} us (goal: under {DECISION_GOAL_US})")
    print(
        f"the same in groups, with ends and limits {figures['policy_decision_us']} us (goal: under {DECISION_GOAL_US})"
    )
    print(f"requests/s with a peer's rule by types   {figures['share']} of ALLOW_ALL (goal: {SHARE_GOAL})")


if __name__ == "__main__":
    main()
