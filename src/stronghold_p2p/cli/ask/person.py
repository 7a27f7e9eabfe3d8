"""Questions as text, for whoever sits at a terminal."""

from __future__ import annotations

import asyncio
from typing import Final

from ...events.direction import Direction, direction_word
from ...firewall.answerers import Turns
from ...firewall.names import labelled
from .. import output, paths
from .asked import MAX_REASON, Act, Answer, Asked, Ban, Questions
from .asker import Asker, LineSource
from .shown import count, toward, type_is_whole, type_of, view_of

__all__ = ["Person"]

HOUR: Final = 3600.0

WORDS: Final[dict[str, tuple[Act, float | None]]] = {
    **dict.fromkeys(("y", "yes", "o", "once", "ok", "allow"), ("once", None)),
    **dict.fromkeys(("h", "hour"), ("type", HOUR)),
    **dict.fromkeys(("t", "type"), ("type", None)),
    **dict.fromkeys(("e", "everything"), ("all", None)),
    **dict.fromkeys(("n", "no", "r", "reject", "deny"), ("reject", None)),
    **dict.fromkeys(("w", "network"), ("network", None)),
    **dict.fromkeys(("b", "ban"), ("ban", None)),
}
"""What people type, and what they mean by it. "Always" is not among them: it would leave open what."""


class Person(Asker):
    """Shows one question at a time as text, by turns among networks and then among peers."""

    def __init__(self, questions: Questions, lines: LineSource, *, quiet: float | None, ban: Ban) -> None:
        """``quiet``: for how many seconds the like is not asked after a question without an answer; None: it is asked
        again."""
        super().__init__(questions, lines, ban=ban)
        self._quiet = quiet
        self._turns = Turns()
        self._missed = 0

    async def _put(self, question: Asked) -> None:
        try:
            await self._turns.take(question)
        except asyncio.CancelledError:
            self._missed += question.outcome != "rejected"  # as the person has said, about all of a network
            raise
        try:
            await self._show(question)
        finally:
            self._turns.pass_on()

    async def _show(self, question: Asked) -> None:
        if not question.waiting:
            self._missed += 1
            return
        if self._lines.ended:
            self._leave()
            return
        output.note(self._text(question))
        try:
            await output.shown()
            self._missed = 0
            self._lines.discard()
            answered = 0
            while not answered and question.outcome is None:
                answer = await self._read_answer(question)
                if answer is None:
                    self._leave()
                    return
                answered = await self._try(question, answer)
        except asyncio.CancelledError:
            output.note(self._ending(question))
            raise
        if not answered:
            output.note(self._ending(question))

    async def _try(self, question: Asked, answer: Answer) -> int:
        """The number of questions that the answer has ended."""
        try:
            answered = await self._answer(question, answer)
        except ValueError as error:  # the peer's rule would change too often
            output.note(f"{error}. Please answer {self._choices(question)}")
            return 0
        if answered:
            output.note(self._done(question, answer, answered))
        elif question.outcome is None:  # by now several must agree
            output.note(f"{_quorum(question)}. Please answer {self._choices(question)}")
        return answered

    # -- a question ------------------------------------------------------------------------------

    def _text(self, question: Asked) -> str:
        if question.kind == "request":
            about = "may this request pass?"
        elif question.waiting == 1:
            about = "no rule is known for this peer. May its request pass?"
        else:
            about = (
                f"no rule is known for this peer. May its {question.waiting} requests pass, of which this is the first?"
            )
        left = max(question.expires - asyncio.get_running_loop().time(), 0)
        lines = [
            f"question {question.id}: {about}",
            f"  peer       {labelled(question.peer, question.name)}",
            f"  address    {question.address or 'not connected'}",
            f"  path       {paths.in_words(paths.relay_of(question.address))}",
            f"  direction  {direction_word(question.direction)}",
            f"  type       {type_of(question) or '-'}",
            f"  request    {view_of(question)}",
            f"  time left  {left:.0f} s; then it is rejected",
            *self._approval(question),
        ]
        if self._missed:
            lines.insert(0, f"{count(self._missed, 'question')} ended before being shown")
        if self._turns.waiting:
            lines.append(f"  ({count(self._turns.waiting, 'more question')} waiting)")
        return "\n".join(("", *lines, self._choices(question)))

    def _approval(self, question: Asked) -> list[str]:
        """Lines about others who are asked."""
        return [f"  approval   {_quorum(question)}"] if question.need > 1 else []

    def _choices(self, question: Asked) -> str:
        """What may be answered, with the letters for it."""
        choices = ["n(o)"]
        if question.need == 1:
            of_type = ["this type for an h(our)", "this t(ype) always"] if type_is_whole(question) else []
            choices = ["y(es) this once", *of_type, f"e(verything) {toward(question)} this peer always", *choices]
        if question.network is not None:
            choices.append("no to its whole net(w)ork")
        if self._ban is not None:
            choices.append("b(an) the peer")
        return ", ".join(choices) + "?"

    async def _read_answer(self, question: Asked) -> Answer | None:
        """What the person decides; None if there is nobody."""
        while (line := await self._lines.read()) is not None:
            answer = _parse(line.decode(errors="replace"))
            if answer is not None and self._is_possible(question, answer):
                return answer
            output.note(f"please answer {self._choices(question)}" if line.strip() else self._choices(question))
        return None

    def _is_possible(self, question: Asked, answer: Answer) -> bool:
        match answer.act:
            case "once" | "all":
                return question.need == 1
            case "type":
                return question.need == 1 and type_is_whole(question)
            case "network":
                return question.network is not None
            case "ban":
                return self._ban is not None
            case "reject":
                return True

    # -- what became of it -----------------------------------------------------------------------

    def _done(self, question: Asked, answer: Answer, ended: int) -> str:
        """Says what an answer has done, ``ended`` being the number of questions that it ended."""
        whose = f"{toward(question)} this peer {'always' if answer.seconds is None else 'for an hour'}"
        match answer.act:
            case "once":
                return "allowed, this once"
            case "type":
                return f"allowed, and so is {type_of(question)} {whose}"
            case "all":
                return f"allowed, and so is everything {whose}"
            case "reject":
                return "rejected"
            case "ban":
                return "rejected, and the peer is banned"
            case "network":
                others = f" with {count(ended - 1, 'more question')}" if ended > 1 else ""
                return f"rejected{others}.{self._next(f'Requests from {question.network} that no rule decides')}"

    def _next(self, what: str) -> str:
        """What happens to more of the kind."""
        if self._quiet is None:
            return " You are asked about the next one again."
        return f" {what} are rejected for {self._quiet:g} s without a question; then you are asked again."

    def _ending(self, question: Asked) -> str:
        """Says why a question that was shown needs no answer any more."""
        if question.kind == "peer":
            what = "Requests that no rule decides,"
        else:
            what = "Requests without a type" if question.type is None else f"Requests of the type {type_of(question)}"
        following = self._next(f"{what} {toward(question)} this peer")
        match question.outcome:
            case "timed out":
                ending = f"was not answered in time: rejected.{following}"
            case "withdrawn" if question.direction is Direction.INBOUND:
                ending = f"has ended: the requester left.{following}"
            case "withdrawn":
                ending = "has ended: the request was withdrawn."
            case "reconsidered":
                ending = "has ended: a rule decides it now."
            case "crowded out":
                ending = "has ended, and is rejected: too many others wait for an answer."
            case "unanswered":
                ending = "has ended, and is rejected: nobody answers any more."
            case "closed":
                ending = "has ended, and is rejected: the peer is closing."
            case _:
                why = f", because: {output.printable(question.reason, MAX_REASON)}" if question.reason else ""
                ending = f"was answered elsewhere: {question.outcome}, by {question.by}{why}."
        return f"question {question.id} {ending}"


def _parse(line: str) -> Answer | None:
    """A word, and after a no the reason."""
    word, _, rest = line.strip().partition(" ")
    act, seconds = WORDS.get(word.lower().rstrip(",:"), (None, None))
    reason = rest.strip()
    if act is None or (reason and act not in ("reject", "ban")):
        return None
    return Answer(act, seconds, reason=reason[:MAX_REASON] or None)


def _quorum(question: Asked) -> str:
    have = "none has" if not question.agreed else "1 has" if question.agreed == 1 else f"{question.agreed} have"
    return f"{question.need} approvers must agree, {have}: a yes from here does not count"
