"""``approve``: questions of other peers' firewalls, answered in this terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Hashable
from typing import Annotated, Any, Final

import msgspec
import typer

from ..addresses.target import parse_target
from ..ending import together
from ..events import ConnectionClosed, ConnectionEstablished, Event
from ..identity import PeerId
from ..peer import StrongholdP2p
from ..protocols.approval import ApprovalRequest, ApprovalRequests
from . import output
from .ask.asked import Answer, Asked
from .ask.asker import Asker, put
from .ask.person import Person
from .ask.program import Program
from .asking import PolicyFile, Relays, StateFile, asking
from .command import KeyFile, PassphraseFile, load_key
from .stdin import Lines
from .story import running

__all__ = ["ApproverPerson", "ApproverProgram", "Questions", "approve"]

MAX_TEXT: Final = 500
"""Characters that are shown of a name, or of who has answered: texts of the peer that asks."""


def approve(
    addresses: Annotated[
        list[str],
        typer.Argument(
            metavar="ADDR...",
            help="Whose questions to answer: a multiaddress that ends in /p2p/<peer id>; or a peer id, or a name in the state"
            " file or the policy, to dial it at its known addresses, and to look for it on the local network if there are none.",
        ),
    ],
    *,
    policy: PolicyFile = None,
    state: StateFile = None,
    relay: Relays = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> Coroutine[Any, Any, None]:
    """Answer the questions of other peers' firewalls, until Ctrl-C or SIGTERM.

    Stays connected with the peers at ADDR, and asks you about their requests as listen --ask does. Their policies must name
    this peer's id among their approvers, so use a key file. Each answer is signed.

    With --json, a program can decide, as with listen --ask: each question also tells who asks, as "asker".
    """
    keypair = load_key(key, passphrase_file)
    peer, targets = asking(addresses, keypair, policy=policy, state=state, relays=relay or ())
    askers = {parse_target(target)[0] for target in targets}
    for target in targets:
        peer.keep(target)
    questions = Questions(peer.approval_requests(askers))
    asker: Asker = (
        ApproverProgram(questions, Lines(), ban=None)
        if output.is_json()
        else ApproverPerson(questions, Lines.of_person(), quiet=None, ban=None)
    )
    return _approve(peer, askers, questions, asker)


async def _approve(
    peer: StrongholdP2p[Any, Any], askers: Collection[PeerId], questions: Questions, asker: Asker
) -> None:
    async with running(peer), together() as tasks:
        output.result({"event": "approving", "peer": str(peer.peer_id)}, f"peer id       {peer.peer_id}")
        others = [tasks.create_task(asker.run()), tasks.create_task(_tell(peer.events(), askers))]
        await questions.run(tasks.create_task)
        for task in others:
            task.cancel()


async def _tell(events: AsyncIterator[Event], askers: Collection[PeerId]) -> None:
    """Prints when those who may ask come and go."""
    connected: dict[PeerId, int] = dict.fromkeys(askers, 0)
    async for event in events:
        match event:
            case ConnectionEstablished(connection) if connection.peer in connected:
                connected[connection.peer] += 1
                if connected[connection.peer] == 1:
                    record = {**output.peer_record(connection.peer), "address": str(connection.address)}
                    output.result({"event": "connected", **record}, f"connected     {output.who(connection.peer)}")
            case ConnectionClosed(connection) if connection.peer in connected:
                connected[connection.peer] -= 1
                if not connected[connection.peer]:
                    record = {"event": "disconnected", **output.peer_record(connection.peer)}
                    output.result(record, f"disconnected  {output.who(connection.peer)}: it is dialed again")


class _Question:
    """A question of another peer, as an asker takes it: what that peer tells is made safe."""

    need = 1
    """An approval from here counts."""
    agreed = 0
    network = None
    """Not known here."""

    def __init__(self, request: ApprovalRequest) -> None:
        self.request: Final = request
        self.id: Final = request.id
        self.kind: Final = request.kind
        self.peer: Final = request.peer
        name = output.name_of(request.peer) or request.name  # our own first: theirs may be the name of a friend of ours
        self.name: Final = None if name is None else output.printable(name, MAX_TEXT)
        self.address: Final = request.address
        self.direction: Final = request.direction
        self.type: Final = request.type
        self.view: Final = msgspec.Raw(request.view.encode())  # JSON already, or at least text
        self.expires: Final = request.expires

    @property
    def waiting(self) -> int:
        return max(self.request.waiting, 1) if self.request.outcome is None else 0

    @property
    def outcome(self) -> str | None:
        return self.request.outcome

    @property
    def by(self) -> str:
        return output.printable(self.request.by or "somebody", MAX_TEXT)

    @property
    def reason(self) -> str | None:
        return self.request.reason

    @property
    def path(self) -> tuple[Hashable, ...]:
        return self.request.asker, self.peer

    def approve(self) -> bool:
        return self.request.approve()

    def approve_type(self, for_: float | None = None, *, also: Collection[str] = ()) -> bool:
        if also:
            raise ValueError(f"an answer to question {self.id} is about its own type alone")
        return self.request.approve_type(for_)

    def approve_all(self, for_: float | None = None) -> bool:
        return self.request.approve_all(for_)

    def reject(self, reason: str | None = None) -> bool:
        return self.request.reject(reason)

    def reject_network(self) -> int:
        raise ValueError(f"the network of question {self.id} is not known here")

    def count_shown(self, times: int) -> None:
        """The peer that asks counts it as shown from the start."""

    @property
    def lacks(self) -> int:
        """How many approvers must agree besides this one."""
        return max(self.request.need - self.request.agreed - 1, 0)

    async def has_counted(self, answer: Answer) -> bool:
        """Waits for the end, and returns whether that is what was answered."""
        outcome = await self.request.ended()
        return outcome == "rejected" if answer.act == "reject" else outcome in {"approved", "rule set"}


class Questions:
    """Has an asker answer each question, as long as it is open."""

    def __init__(self, requests: ApprovalRequests) -> None:
        self._requests = requests
        self._handler: Callable[[_Question], Awaitable[None]]

    def on_firewall_request(self, handler: Callable[[Any], Awaitable[None]], *, by: str) -> None:
        self._handler = handler

    def remove_firewall_handler(self, handler: Callable[[Any], Awaitable[None]]) -> None:
        self._requests.close()

    async def run(self, start: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """Starts a task for each, until the asker answers no more."""
        async for request in self._requests:
            start(put(self._handler(_Question(request)), request))


class _Approver(Asker):
    """Answers the questions of others."""

    OTHERWISE = "questions are left to other approvers"

    def _turn_away(self, question: Asked) -> None:
        return


class ApproverPerson(_Approver, Person):
    async def _answer(self, question: Asked, answer: Answer) -> int:
        assert isinstance(question, _Question)
        if not await super()._answer(question, answer):
            return False
        return (question.lacks > 0 and answer.act != "reject") or await question.has_counted(answer)

    def _approval(self, question: Asked) -> list[str]:
        assert isinstance(question, _Question)
        others = [f"  approval   {question.lacks} more must agree"] if question.lacks else []
        return [f"  asked by   {output.who(question.request.asker)}", *others]

    def _done(self, question: Asked, answer: Answer, ended: int) -> str:
        assert isinstance(question, _Question)
        done = super()._done(question, answer, ended)
        return f"{done}, if {question.lacks} more agree" if question.lacks and answer.act != "reject" else done

    def _ending(self, question: Asked) -> str:
        if question.outcome == "lost":
            return f"question {question.id} has ended: the connection is lost, or that peer asks us no more."
        return super()._ending(question)


class ApproverProgram(_Approver, Program):
    async def _answer(self, question: Asked, answer: Answer) -> int:
        assert isinstance(question, _Question)
        return await super()._answer(question, answer) and await question.has_counted(answer)

    def _record(self, question: Asked) -> dict[str, Any]:
        assert isinstance(question, _Question)
        request = question.request
        record = super()._record(question)
        return {**record, "asker": str(request.asker), "need": request.need, "agreed": request.agreed}
