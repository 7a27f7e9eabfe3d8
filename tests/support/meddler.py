"""A relay that does to circuits what a test wants to be done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

from stronghold_p2p import PeerId, Rule, Stream, StrongholdP2p
from stronghold_p2p.encoding import messages
from stronghold_p2p.errors import StrongholdError
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.relay.message import HOP, STOP, HopType, Status, StopType

__all__ = ["Change", "Meddler"]

Change: TypeAlias = Callable[[bool, int, bytes], Iterable[bytes]]
"""Takes whether a piece goes to the target, its number in that direction, and its bytes; what goes on instead."""


def untouched(to_target: bool, number: int, data: bytes) -> Iterable[bytes]:
    return (data,)


class Meddler:
    """Serves the hop protocol at ``peer``: reserves for everybody, without limits, voucher and addresses.

    ``change`` is done to each piece that passes; ``misdirect`` says with whom a peer is connected instead of whom it asks for;
    the ends of circuits are in ``circuits``.
    """

    def __init__(self, peer: StrongholdP2p[Any, Any]) -> None:
        self.change: Change = untouched
        self.misdirect: dict[PeerId, PeerId] = {}
        self.limit: messages.CircuitLimit | None = None
        """What is announced of circuits."""
        self.circuits: list[tuple[Stream, Stream]] = []
        self._peer = peer
        peer.set_firewall_default(Rule.ALLOW_ALL)
        peer.handle_stream(HOP, self._serve)

    def cut(self) -> None:
        """Ends all circuits."""
        for end in (end for ends in self.circuits for end in ends):
            end.reset()

    async def _serve(self, stream: Stream) -> None:
        message = await read(stream, messages.HopMessage)
        if message.type == HopType.RESERVE:
            reservation = messages.CircuitReservation(expire=2**40)
            await write(
                stream,
                messages.HopMessage(type=HopType.STATUS, status=Status.OK, reservation=reservation, limit=self.limit),
            )
            return
        target = PeerId(message.peer.id)
        async with await self._peer.open_stream(self.misdirect.get(stream.peer, target), STOP) as stop:
            source = messages.CircuitPeer(id=stream.peer.to_bytes())
            await write(stop, messages.StopMessage(type=StopType.CONNECT, peer=source, limit=self.limit))
            await read(stop, messages.StopMessage)
            await write(stream, messages.HopMessage(type=HopType.STATUS, status=Status.OK, limit=self.limit))
            ends = stream, stop
            self.circuits.append(ends)
            ways = [asyncio.create_task(self.pump(ends, to_target)) for to_target in (True, False)]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
                stream.reset()
                stop.reset()
                self.circuits.remove(ends)

    async def pump(self, ends: tuple[Stream, Stream], to_target: bool) -> None:
        """Passes on what comes one way, until that is over, and the circuit with it."""
        one, other = ends if to_target else reversed(ends)
        number = 0
        with suppress(StrongholdError):
            while data := await one.read():
                for piece in self.change(to_target, number, data):
                    await other.write(piece)
                number += 1
