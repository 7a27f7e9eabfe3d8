"""The perf protocol, which go-libp2p alone serves here."""

from __future__ import annotations

import pytest

from stronghold_p2p import FirewallRules, StrongholdP2p
from stronghold_p2p.protocols import perf

from .conftest import Shared
from .driver import dial

pytestmark = pytest.mark.asyncio(loop_scope="session")

SIZES = [(0, 0), (1, 0), (0, 1), (20_000_000, 10_000_000)]
"""Bytes up, bytes down."""


@pytest.mark.parametrize(("upload", "download"), SIZES)
async def test_our_client(shared: Shared, upload: int, download: int) -> None:
    address = (await shared("go", "--perf")).address
    reported = [(0, 0)]
    async with StrongholdP2p() as peer, await peer.open_stream(address, perf.PROTOCOL) as stream:
        await perf.measure(stream, upload, download, lambda *sizes: reported.append(sizes))
    assert reported[-1] == (upload, download)


@pytest.mark.parametrize(("upload", "download"), SIZES)
async def test_our_server(upload: int, download: int) -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as peer:
        peer.handle_stream(perf.PROTOCOL, perf.serve)
        (line,) = await dial("go", await peer.listen(), "perf", "--upload", upload, "--download", download)
    assert list(line) == ["download_seconds", "upload_seconds"]
