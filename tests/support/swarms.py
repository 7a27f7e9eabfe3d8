"""Swarms without the rest of a peer: everything is permitted, and nothing listed but what a test gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from stronghold_p2p import AddressBook, Config, Event, Keypair
from stronghold_p2p.firewall.admission import Admission
from stronghold_p2p.protocols.service import Service
from stronghold_p2p.resources.refusals import Refusals
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.swarm.swarm import Swarm
from stronghold_p2p.transport.interfaces import InterfaceWatch
from stronghold_p2p.transport.resolver import SystemResolver
from stronghold_p2p.transport.transport import Transport

__all__ = ["make_swarm"]


def make_swarm(
    transports: Sequence[Transport],
    services: Sequence[Service],
    events: list[Event],
    *,
    config: Config | None = None,
    keypair: Keypair | None = None,
    **parts: Any,
) -> Swarm:
    """A swarm of ``keypair`` or a new identity, whose events go to ``events``; ``parts`` replace others of its parts."""
    made: dict[str, Any] = {
        "resolver": SystemResolver(),
        "interfaces": InterfaceWatch(),
        "addresses": AddressBook(),
        "admission": Admission(),
        **parts,
    }
    return Swarm(
        keypair or Keypair.generate(),
        config or Config(),
        transports=transports,
        services=services,
        turns=Turns(asyncio.get_running_loop(), 1.0),
        permits=lambda peer, protocol: True,
        approves=lambda peer: True,
        refusals=Refusals(events.append),
        refused=lambda peer, protocol: None,
        emit=events.append,
        **made,
    )
