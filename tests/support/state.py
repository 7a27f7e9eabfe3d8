"""State files, as somebody else sees them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from stronghold_p2p.store.database import Database
from stronghold_p2p.store.firewall_tables import FirewallTables

__all__ = ["opened"]


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[FirewallTables]:
    """What the firewall keeps in a file, which is made if it is not there."""
    with Database(path) as database:
        yield FirewallTables(database)
