"""Rules with an end in a state file: over a restart, and of two processes that share it."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from support.state import opened
from support.waiting import until

from stronghold_p2p import Direction, FirewallRules, Keypair, PeerId, Rule, StrongholdP2p
from stronghold_p2p.firewall.rules import PeerRules

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id
NOW = datetime.now(UTC)
LATER, BEFORE = NOW + timedelta(days=1), NOW - timedelta(days=1)


def kept(path: Path) -> dict[tuple[PeerId, Direction], Rule]:
    with opened(path) as file:
        return file.read().rules


async def test_what_has_ended_while_the_peer_was_off_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    lasting = Rule.ALLOW_ALL.replace(until=LATER, strict=True, reasons=True)
    with opened(path) as file:
        file.set_rule(ALICE, Direction.INBOUND, Rule.ALLOW_ALL.replace(until=BEFORE))
        file.set_rule(ALICE, Direction.OUTBOUND, lasting)
        file.set_rule(BOB, Direction.BOTH, Rule.ASK.lend("Sign", BEFORE))
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(state=path)
    async with peer:
        assert peer.get_firewall_config() == FirewallRules(peers={ALICE: (None, lasting), BOB: (Rule.ASK, Rule.ASK)})
        await until(
            lambda: (
                kept(path)
                == {
                    (ALICE, Direction.OUTBOUND): lasting,
                    (BOB, Direction.INBOUND): Rule.ASK,
                    (BOB, Direction.OUTBOUND): Rule.ASK,
                }
            )
        )


OTHER_PROCESS = """
import asyncio, sys
from stronghold_p2p import StrongholdP2p

async def main():
    async with StrongholdP2p(state=sys.argv[1]) as peer:
        told = None
        while True:
            rules = list(peer.get_firewall_config().peers.values())
            if rules != told:
                print(rules, flush=True)
                told = rules
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


async def test_two_processes_on_one_file_agree(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(state=path)

    def own() -> PeerRules | None:
        return peer.get_firewall_config().peers.get(ALICE)

    async with peer:
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OTHER_PROCESS, str(path), stdout=asyncio.subprocess.PIPE
        )
        assert other.stdout is not None
        try:
            assert await other.stdout.readline() == b"[]\n"
            rule = Rule.ALLOW_ALL.replace(until=LATER, strict=True)
            with opened(path) as file:
                file.set_rule(ALICE, Direction.INBOUND, rule)
            await until(lambda: own() == (rule, None))
            assert (await other.stdout.readline()).decode() == f"[({rule!r}, None)]\n"
            with opened(path) as file:
                file.set_rule(ALICE, Direction.INBOUND, rule.replace(until=BEFORE))
            await until(lambda: own() is None)
            assert await other.stdout.readline() == b"[]\n"
            await until(lambda: kept(path) == {})  # whoever was first
        finally:
            other.kill()
            await other.wait()
