"""The table of a state file for petnames."""

from __future__ import annotations

import msgspec

from ..firewall.names import looks
from ..identity import PeerId
from .database import Database

__all__ = ["NameTable"]


class NameTable:
    """The table ``names``, in which no two names look alike. All methods raise StateError, as their database does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> dict[PeerId, str]:
        """All petnames. They are as they were written: what can be a name depends on the Unicode version of who wrote it."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT peer, name FROM names").fetchall()
        with self._database.decoding("name"):
            return {PeerId(peer): name for peer, name in msgspec.convert(rows, list[tuple[bytes, str]])}

    def set(self, peer: PeerId, name: str | None) -> list[PeerId]:
        """Keeps the petname of a peer; None removes it. Others whose names look like it lose them: returns those. It is on
        disk then."""
        losers: list[PeerId] = []
        with self._database.write() as connection:
            connection.execute("DELETE FROM names WHERE peer = ?", (peer.to_bytes(),))
            if name is not None:
                rows = connection.execute("SELECT peer, name FROM names").fetchall()
                losers = [PeerId(other) for other, taken in rows if looks(taken) == looks(name)]
                connection.executemany("DELETE FROM names WHERE peer = ?", [(loser.to_bytes(),) for loser in losers])
                connection.execute("INSERT INTO names VALUES (?, ?)", (peer.to_bytes(), name))
        return losers
