"""A diagnosis with the relays and peers of others: what they offer is taken as it is meant."""

from __future__ import annotations

import pytest

from stronghold_p2p.diagnosis import diagnose

from .conftest import Shared

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("language", ["go", "rust", "js"])
async def test_a_relay_and_a_peer_of_others(shared: Shared, language: str) -> None:
    relay, peer = await shared(language, "--relay"), await shared(language)
    diagnosis = await diagnose(relays=[relay.address], peer=peer.address, listen="/ip4/127.0.0.1/tcp/0", seconds=8.0)
    found = {finding.check: finding for finding in diagnosis.findings}
    assert "has 128 KiB each way and 2 minutes." in found["relay"].what
    assert "status 204" in found["peer_by_relay"].what
    assert [found[check].verdict for check in ("clock", "peer", "ping", "requests")] == ["ok"] * 4
    assert language in found["requests"].data["agent"]
