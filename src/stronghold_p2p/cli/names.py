"""Names of peers: taken where a command takes a peer, and read from the files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..addresses.target import parse_target
from ..errors import InvalidAddress
from ..firewall.names import Names
from ..firewall.policy import Policy

__all__ = ["PolicyFile", "latest_address", "load_policy", "named", "read_names"]

EXAMPLE = "an address, such as /ip4/127.0.0.1/tcp/4001/p2p/12D3Koo..."

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="A policy file, whose names count, too."),
]


def load_policy(path: Path | None) -> Policy | Path | None:
    """What to give a peer as its policy. A pipe is read here, once: it may take its time, and cannot be looked at again."""
    return Policy.load(path, wait=True) if path is not None and path.is_fifo() else path


def read_names(policy: Policy | Path | None, state: Path | None = None) -> Names:
    """The names in both files.

    Raises:
        PolicyError, StateError: a file is missing, or unusable.
    """
    names = Names()
    if policy is not None:
        loaded = policy if isinstance(policy, Policy) else Policy.load(policy, wait=True)
        names.set_policy(loaded.names, loaded.groups)
    if state is not None:
        from ..store.database import Database  # with SQLite, for those who have a state file
        from ..store.name_table import NameTable

        with Database(state, create=False) as database:
            for peer, name in NameTable(database).read().items():
                names.set_petname(peer, name)
    return names


def named(text: str, policy: Policy | Path | None, state: Path | None = None) -> str:
    """What an argument means that takes a peer id or an address: of the name of a peer in one of the files its id. They are
    read for that alone.

    Raises:
        InvalidAddress: neither an address, nor a peer id, nor a name.
        PolicyError, StateError: as for :func:`read_names`.
    """
    try:
        parse_target(text)
    except InvalidAddress:
        if text.startswith(("/", "12D3Koo")):  # an address, or an id
            raise
        if policy is None and state is None:
            raise InvalidAddress(
                text, f"neither {EXAMPLE}, nor a peer id; for a name, give the policy or state file that has it, too"
            ) from None
        return str(read_names(policy, state).find(text))
    return text


def latest_address(state: Path, target: str) -> str | None:
    """The address, with its id, at which a peer was reached last, or any that the state file has of it; None if it has none.
    ``target`` is the peer's id, or an address of it.

    Raises:
        StateError: there is no file, or it is unusable.
    """
    from ..store.address_tables import AddressTables
    from ..store.database import Database

    peer = parse_target(target)[0]
    with Database(state, create=False) as database:
        address = AddressTables(database).latest(peer)
    return None if address is None else str(address.with_peer(peer))
