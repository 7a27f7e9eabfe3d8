"""State files, and the peers that they tell of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from stronghold_p2p.firewall.rules import Rule
from stronghold_p2p.identity import PeerId
from stronghold_p2p.store.database import Database

PING = Rule.restricted(allow={"Ping"})


def peer(number: int) -> PeerId:
    return PeerId(bytes.fromhex("002408011220") + number.to_bytes(32, "big"))


ALICE, BOB, CAROL = map(peer, range(3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """A state file in which somebody else is at work."""
    Database(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()
