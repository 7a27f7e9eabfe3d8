"""A worker's end: how it is set up, what it prints, whom it asks, and when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from ...events import Direction
from ...firewall.questions import MAX_TYPE, FirewallRequest
from ...identity import Keypair
from ...peer import StrongholdP2p
from .. import output
from ..ask.asked import give
from ..ask.shown import view_of
from ..command import UsageError
from ..text import without_surrogates
from .channel import Asked, Channel, Ended, Give, Given, HangUp, Here, Leave, Listening, Printed, Shown, first_message

__all__ = ["Member"]


class Member:
    """This process as one of several workers, by the socket that it has inherited as ``descriptor``.

    Raises:
        UsageError: there is no supervisor at its other end.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            self._socket = socket.socket(fileno=descriptor)
            setup = first_message(self._socket)
        except (OSError, EOFError) as error:
            raise UsageError("--worker is for the processes that listen --workers starts") from error
        self.keypair: Final = Keypair.from_protobuf(setup.key)
        self.is_first: Final = setup.number == 1
        self.addresses: Final = setup.addresses
        self.state: Final = None if setup.state is None else Path(os.fsdecode(setup.state))
        self._number = setup.number
        self._open: dict[int, FirewallRequest] = {}
        self._channel: Channel | None = None
        self._peer: StrongholdP2p[Any, Any] | None = None

    def own(self, path: Path) -> Path:
        """The file of this worker in the place of one that only one process can write."""
        return path.with_name(f"{path.name}.{self._number}")

    def ask(self, peer: StrongholdP2p[Any, Any]) -> None:
        """Has the supervisor answer the peer's questions."""
        self._peer = peer
        peer.on_firewall_request(self._ask, by="person")

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """As long as it lasts, the supervisor prints what this process prints, but for the log."""
        self._channel = await Channel.over(self._socket)
        output.forward(self._print)
        try:
            yield
        finally:
            output.forward(None)
            await self._channel.close()

    async def run(self) -> None:
        """Does what the supervisor says. When that is gone, this process ends as by SIGTERM."""
        assert self._channel is not None
        while (message := await self._channel.receive()) is not None:
            match message:
                case Give():
                    await self._give(message)
                case Shown(id, times) if id in self._open:
                    self._open[id].count_shown(times)
                case Leave() if self._peer is not None:
                    self._peer.remove_firewall_handler(self._ask)
                case HangUp():
                    signal.raise_signal(signal.SIGHUP)
                case Here():
                    self._send(message)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.get_running_loop().create_future()

    def listening(self, addresses: list[str]) -> None:
        """Tells that the peer listens at these, without its id."""
        self._send(Listening(addresses))

    def _print(self, record: dict[str, Any] | None, text: str | None) -> None:
        if not self._is_stalled():
            self._send(Printed(without_surrogates(record), without_surrogates(text)))

    async def _ask(self, question: FirewallRequest) -> None:
        if self._is_stalled():
            question.reject("nobody reads the questions")
            return
        self._open[question.id] = question
        self._send(_asked(question))
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            del self._open[question.id]
            self._send(Ended(question.id, question.outcome, question.by, question.reason))

    async def _give(self, message: Give) -> None:
        question = self._open.get(message.id)
        if question is None or self._peer is None:
            self._send(Given(message.id, 0))
            return
        try:
            self._send(Given(message.id, int(await give(message.answer, question, self._peer.ban_peer))))
        except (TypeError, ValueError) as error:
            self._send(Given(message.id, 0, str(error)))

    def _is_stalled(self) -> bool:
        """Remotes cause any number of lines and questions, and the supervisor may be stopped."""
        return self._channel is not None and self._channel.is_stalled

    def _send(self, message: Here | Listening | Printed | Asked | Given | Ended) -> None:
        assert self._channel is not None
        self._channel.send(message)


def _asked(question: FirewallRequest) -> Asked:
    return Asked(
        question.id,
        question.kind,
        str(question.peer),
        question.name,
        None if question.address is None else str(question.address),
        question.direction is Direction.INBOUND,
        None if question.type is None else question.type[: MAX_TYPE + 1],  # one that is longer is nobody's to approve
        view_of(question),
        question.network,
        list(map(str, question.path)),
        max(question.expires - asyncio.get_running_loop().time(), 0.0),
        question.waiting,
        question.need,
        question.agreed,
    )
