"""The peer by which a command asks another: which one, as whom, and by which ways."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..addresses.target import parse_target
from ..identity import Keypair
from ..peer import StrongholdP2p
from ..requests.codec import CodecName
from . import output
from .names import latest_address, load_policy, named

__all__ = ["PolicyFile", "Relays", "StateFile", "Target", "asking"]

Target = Annotated[
    str,
    typer.Argument(
        metavar="ADDR",
        help="The peer: a multiaddress that ends in /p2p/<peer id>; or its peer id, or its name in the state file or the"
        " policy, to dial it at its known addresses, and to look for it on the local network if there are none.",
    ),
]
PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="The policy file of this peer: names, and what it permits."),
]
StateFile = Annotated[
    Path | None,
    typer.Option("--state", metavar="FILE", help="The state file of this peer: names, addresses, rules and bans."),
]
Relays = Annotated[
    list[str] | None,
    typer.Option("--relay", metavar="ADDR", help="Try to reach the peer through this relay, too. Repeatable."),
]


def asking(
    targets: Iterable[str],
    keypair: Keypair | None,
    *,
    codec: CodecName = "json",
    policy: Path | None = None,
    state: Path | None = None,
    relays: Sequence[str] = (),
) -> tuple[StrongholdP2p[Any, Any], list[str]]:
    """A peer, not started, and the addresses or peer ids at which it is to ask others.

    Who is given without an address is looked for on the local network, where we are announced then; not so if there are
    relays, or the state file has an address.

    Raises:
        InvalidAddress: a target or a relay is no address, no peer id and no name.
        PolicyError, StateError: a file is missing, or unusable.
    """
    rules = load_policy(policy)
    found = [named(target, rules, state) for target in targets]
    unknown = [one for one in found if not (state is not None and latest_address(state, one))]
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(
        keypair=keypair,
        codec=codec,
        policy=rules,
        state=state,
        mdns=not relays and any(parse_target(one)[1] is None for one in unknown),
    )
    output.name_peers(peer.name_of)
    for relay in relays:
        peer.add_dialing_relay(named(relay, rules, state))
    return peer, found
