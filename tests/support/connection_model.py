"""A model of a connection: what its two ends know, and two queues of what is on its way between them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeAlias

from stronghold_p2p import ConnectionLost, MuxerError
from stronghold_p2p.transport.substream import MAX_LAZY_SIZE
from stronghold_p2p.wire.yamux import GoAwayCode

__all__ = ["End", "Message", "Model", "Side", "Talk", "Wait"]

Kind: TypeAlias = Literal["syn", "agree", "na", "data", "fin", "rst", "ping", "pong", "bad", "go away"]


class Message(NamedTuple):
    """Something on its way."""

    kind: Kind
    talk: Talk | None = None
    value: int = 0
    """Bytes, or a code."""


@dataclass(eq=False)
class End:
    """One end of a stream."""

    side: Side
    is_dialer: bool
    exists: bool = False
    """Neither both ends have said their last word, nor one has reset the stream."""
    agreed: bool = False
    """The other end knows the protocol, or is known to."""
    finished: bool = False
    """It was told to say no more."""
    may_send: bool = True
    may_hear: bool = True
    wanted: bool = True
    """Its user has not let go of it."""
    lazy_room: int = 0
    """Bytes that it may send before the other end agrees."""
    waiting: list[Message] = field(default_factory=list)
    """For that."""
    said: bytes = b""
    heard: int = 0
    """Bytes of what the other end has said."""
    eof: bool = False
    error: str = ""
    held: bool = True
    """What it has heard counts until it is taken."""
    may_be_unseen: bool = False
    """It was reset before its user could know of it, or just after."""
    face: Any = None
    """What takes it in the real connection."""

    def end(self, error: str = "") -> None:
        """Nothing comes or goes any more."""
        if self.exists:
            self.exists = self.may_send = self.may_hear = False
            self.waiting.clear()
            if self.is_dialer:
                self.held = False
            if error and self.wanted:
                self.error = error


@dataclass(eq=False)
class Talk:
    """A stream."""

    protocol: str
    dialer: End
    listener: End

    def end_at(self, side: Side) -> End:
        return self.dialer if self.dialer.side is side else self.listener

    @property
    def is_unknown(self) -> bool:
        return self.protocol.startswith("/unknown/")


@dataclass(eq=False)
class Wait:
    """Of somebody who wants to open a stream."""

    talk: Talk
    task: asyncio.Task[None]
    cancelled: bool = False


class Side:
    """One end of the connection."""

    def __init__(self, *, opens: int, takes: int) -> None:
        """How many streams it opens at once, and takes."""
        self.opens = opens
        self.takes = takes
        self.other: Side
        self.talks: list[Talk] = []
        self.waits: list[Wait] = []
        self.inbox: list[Message] = []
        self.state: Literal["open", "draining", "farewell", "closing", "ended"] = "open"
        self.reading = True
        self.is_mute = False
        """What it says goes nowhere."""
        self.pipe_ends: str | None = None
        """Its pipe is about to end, and how."""
        self.failure = ""
        self.errors: tuple[type[object], ...] = (NoneType,)
        """With one of which it may end."""
        self.refused = False
        self.kept = False
        self.asked = 0
        """Pings that it has sent; the last one counts."""
        self.answered = 0
        self.is_to_ask = False
        """A ping leaves behind what was said in the turn in which it was found to be needed."""
        self.has_served = False
        """Since it said farewell."""

    @property
    def ends(self) -> list[End]:
        """Of open streams."""
        return [end for end in (talk.end_at(self) for talk in self.talks) if end.exists]

    @property
    def is_leaving(self) -> bool:
        """It closes as soon as it is done."""
        return self.state in ("draining", "farewell")

    @property
    def is_closing(self) -> bool:
        return self.state in ("closing", "ended")

    # -- its acts --

    def has_room(self) -> bool:
        return not self.waits and self._is_below_limit()

    def _is_below_limit(self) -> bool:
        return sum(end.is_dialer for end in self.ends) < self.opens

    def open(self, talk: Talk, words: int) -> None:
        """``words``: how many bytes follow the protocol at once; without any, nothing does until it is agreed to."""
        self.talks.append(talk)
        talk.dialer.exists = True
        talk.dialer.lazy_room = MAX_LAZY_SIZE - words if words else 0
        self.say("syn", talk)
        if words:
            self.say("data", talk, words)

    def write(self, talk: Talk, size: int) -> None:
        end = talk.end_at(self)
        if not end.exists:
            return
        if end.waiting or not (end.agreed or size <= end.lazy_room):
            end.waiting.append(Message("data", talk, size))
        else:
            end.lazy_room -= size
            self.say("data", talk, size)

    def finish(self, talk: Talk) -> None:
        end = talk.end_at(self)
        if end.exists and not end.finished:
            end.finished = True
            if end.waiting:
                end.waiting.append(Message("fin", talk))
            else:
                self._say_fin(talk)

    def release(self, talk: Talk) -> None:
        end = talk.end_at(self)
        end.wanted = end.held = False
        self.finish(talk)

    def reset(self, talk: Talk, code: int) -> None:
        end = talk.end_at(self)
        end.wanted = end.held = False
        if end.exists:
            self.say("rst", talk, code)
            end.end()

    def drain(self) -> None:
        if self.state == "open":
            self.state = "draining"
            self.has_served = False

    def close(self, code: int = 0, why: str = "closed by us") -> None:
        if not self.is_closing:
            self.say("go away", value=code)
            self._begin_end(why)

    def abort(self) -> None:
        if self.state != "ended" and self.pipe_ends is None:
            self.pipe_ends, self.other.pipe_ends = "", self.other.pipe_ends or "reset by the other end"
            self.inbox.clear()
            self.other.inbox.clear()
        self._begin_end("closed by us")

    def say(self, kind: Kind, talk: Talk | None = None, value: int = 0) -> None:
        if not (self.is_closing or self.is_mute):
            self.other.inbox.append(Message(kind, talk, value))

    def go_on(self, talk: Talk) -> None:
        """Says what has waited."""
        waiting, talk.end_at(self).waiting = talk.end_at(self).waiting, []
        for message in waiting:
            if message.kind == "fin":
                self._say_fin(talk)
            else:
                self.say(*message)

    def _say_fin(self, talk: Talk) -> None:
        end = talk.end_at(self)
        self.say("fin", talk)
        end.may_send = False
        if not end.may_hear:
            end.end()

    def _begin_end(self, why: str) -> None:
        if not self.is_closing:
            self.state = "closing"
        for end in self.ends:
            end.held = False
            end.end(why)

    # -- what it hears --

    def hear(self) -> None:
        """All that is on its way to it."""
        batch, self.inbox = self.inbox, []
        new: list[Talk] = []
        for message in batch:
            if self.failure:
                return
            talk, value = message.talk, message.value
            match message.kind:
                case "syn":
                    assert talk is not None
                    self._take(talk)
                    new.append(talk)
                case "ping":
                    self.say("pong", value=value)
                case "pong":
                    self.answered = value
                case "bad":
                    self.failure = "bad"
                    self.errors = (MuxerError,)
                    self.close(GoAwayCode.PROTOCOL_ERROR, "bad")
                case "go away":
                    self.refused = value == GoAwayCode.GATED
                    if not self.is_closing:
                        self.state = "closing"
                case kind:
                    assert talk is not None
                    if (end := talk.end_at(self)).exists:
                        self._hear_of(talk, end, kind, value)
                        end.may_be_unseen |= kind == "rst" and talk in new
        self.has_served |= any(talk.listener.agreed and not talk.listener.may_be_unseen for talk in new)

    def _take(self, talk: Talk) -> None:
        self.talks.append(talk)
        inbound = [end for end in self.ends if not end.is_dialer]
        end = talk.listener
        if self.is_closing or len(inbound) >= self.takes:
            end.wanted = False
            self.say("rst", talk)
            return
        end.exists = True
        if talk.is_unknown:
            end.wanted = False
            self.say("na", talk)
        else:
            end.agreed = True
            self.say("agree", talk)

    def _hear_of(self, talk: Talk, end: End, kind: Kind, value: int) -> None:
        match kind:
            case "agree":
                end.agreed = True
                self.go_on(talk)
            case "na":
                self.say("rst", talk)
                end.end("not supported")
            case "data":
                end.heard += value if end.wanted and end.may_hear else 0
            case "fin":
                end.may_hear = False
                end.eof = end.wanted
                if not end.may_send:
                    end.end()
            case _:
                end.end(f"reset {value}" if end.agreed else "not supported")

    def come_to_rest(self) -> None:
        """At the end of a turn of the loop."""
        while self.waits and (self.state != "open" or self._is_below_limit()):
            wait = self.waits.pop(0)
            if self.state == "open" and not wait.cancelled:
                self.open(wait.talk, 0)
        if self.is_to_ask:
            self.is_to_ask = False
            self.say("ping", value=self.asked)
        if not self.is_leaving or not all(self._is_done(end) for end in self.ends):
            return
        if self.state == "draining" or self.has_served:
            self.state = "farewell"
            self.has_served = False
            self.asked += 1
            self.is_to_ask = True
        elif self.answered == self.asked:
            self.close()

    def _is_done(self, end: End) -> bool:
        return (not end.wanted and not end.may_send) or not (end.is_dialer or end.agreed)

    def end(self, how: str) -> None:
        """The pipe has ended."""
        if self.state == "ended":
            return
        for end in self.ends:
            end.held = False
            end.end("not supported" if self.refused and not end.agreed else how or "closed by the remote")
        if how and not self.failure:
            self.errors = (ConnectionResetError,)
        self.state = "ended"
        self.inbox.clear()


class Model:
    def __init__(self) -> None:
        self.sides = Side(opens=3, takes=2), Side(opens=3, takes=4)  # one has to wait, the other one is refused
        self.sides[0].other, self.sides[1].other = self.sides[1], self.sides[0]

    @property
    def hear_each_other(self) -> bool:
        return all(side.reading and not side.is_mute for side in self.sides)

    def settle(self) -> None:
        """All happens that needs no time."""
        busy = list(self.sides)
        while busy or any(side.is_to_ask for side in self.sides):
            for side in self.sides:
                side.come_to_rest()
            busy = [side for side in self.sides if self._step(side)]

    def _step(self, side: Side) -> bool:
        """Whether anything has happened there."""
        if side.state == "ended":
            return False
        if side.pipe_ends is not None:
            side.end(side.pipe_ends)
        elif side.reading and side.inbox:
            side.hear()
        elif side.reading and side.other.state == "closing":
            side.pipe_ends = side.other.pipe_ends = ""
        else:
            return False
        return True

    def pass_time(self) -> None:
        """So much that nothing goes on but what has a reason to."""
        if not self.hear_each_other:
            for side in self.sides:
                if side.state != "ended":
                    side.errors = (NoneType, ConnectionLost, ConnectionResetError, *side.errors)
                side.waits.clear()  # a place may become free before the end, or not
                for end in side.ends:
                    end.held = False
                    end.end("lost")
                side.pipe_ends = ""
            self.settle()
            return
        for side in self.sides:
            for talk in side.talks:
                end = talk.end_at(side)
                if end.exists and not end.wanted and end.may_hear:
                    side.reset(talk, 0)
        self.settle()
        if any(not (side.ends or side.kept) for side in self.sides):
            self.sides[0].close()
            self.settle()
