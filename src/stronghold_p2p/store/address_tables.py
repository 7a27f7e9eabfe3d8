"""The table of a state file for known addresses."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..addresses.entry import AddressKey, AddressSource, NamedAddress
from ..identity import PeerId
from ..multiaddr import Multiaddr
from .database import Database

__all__ = ["AddressTables"]


class AddressTables:
    """The table ``addresses``, with a row for each source of an address; failed dials are not kept. All methods raise
    StateError, as their database does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, given: int, told: int) -> list[NamedAddress]:
        """The addresses of the latest successful dials, these last: at most ``given`` given ones, and ``told`` others.

        Those that this program cannot parse are left out: a later one has written them.
        """
        with self._database.read() as connection:
            rows = connection.execute(_READ, {"given": given, "told": told}).fetchall()
        return self._decode(rows)

    def latest(self, peer: PeerId) -> Multiaddr | None:
        """Where a peer was reached last; without such, any address of it; None if it has none."""
        with self._database.read() as connection:
            rows = connection.execute(_LATEST, (peer.to_bytes(),)).fetchall()
        return next((each.address for each in self._decode(rows)), None)

    def trim(self, given: int, told: int) -> None:
        """Removes those that :meth:`read` leaves out beyond the limits."""
        with self._database.read() as connection:
            counts = dict(connection.execute("SELECT source = 'given', count(*) FROM addresses GROUP BY 1").fetchall())
        if counts.get(1, 0) > given or counts.get(0, 0) > told:
            with self._database.write() as connection:
                connection.execute(_TRIM, {"given": given, "told": told})

    def write(self, kept: Iterable[NamedAddress], gone: Iterable[AddressKey]) -> None:
        """Keeps some, and removes others; all of it happens, or nothing."""
        with self._database.write() as connection:
            connection.executemany("DELETE FROM addresses WHERE (peer, address, source) = (?, ?, ?)", map(_key, gone))
            connection.executemany(
                _WRITE,
                ((*_key(each.key), each.expires, _encode(each.told_by), each.last_success) for each in kept),
            )

    def _decode(self, rows: Iterable[object]) -> list[NamedAddress]:
        with self._database.decoding("address"):
            # One by one, so that the event loop's thread goes on meanwhile.
            named = [_named(msgspec.convert(row, _Row)) for row in rows]
        return [each for each in named if each is not None]


_Row = tuple[bytes, bytes, AddressSource, float | None, str, float | None]

_READ = """
SELECT * FROM (
    SELECT * FROM (SELECT * FROM addresses WHERE source = 'given' ORDER BY last_success DESC LIMIT :given)
    UNION ALL
    SELECT * FROM (SELECT * FROM addresses WHERE source <> 'given' ORDER BY last_success DESC LIMIT :told)
) ORDER BY last_success
"""

_LATEST = "SELECT * FROM addresses WHERE peer = ? ORDER BY last_success DESC"

_TRIM = f"DELETE FROM addresses WHERE (peer, address, source) NOT IN (SELECT peer, address, source FROM ({_READ}))"

_WRITE = """
INSERT INTO addresses VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    expires = excluded.expires,
    told_by = excluded.told_by,
    last_success = nullif(max(ifnull(excluded.last_success, 0), ifnull(last_success, 0)), 0)
"""
"""Another peer, on the same file, may have had more success."""


def _key(key: AddressKey) -> tuple[bytes, bytes, str]:
    peer, address, source = key
    return peer.to_bytes(), address.to_bytes(), source.value


def _encode(told_by: tuple[str, ...]) -> str:
    return msgspec.json.encode(told_by).decode()


def _named(row: _Row) -> NamedAddress | None:
    peer, encoded, source, expires, told_by, last_success = row
    peer_id, networks = PeerId(peer), msgspec.json.decode(told_by, type=tuple[str, ...])
    try:
        address = Multiaddr(encoded)
    except ValueError:
        return None
    return NamedAddress(peer_id, address, source, expires, networks, last_success)
