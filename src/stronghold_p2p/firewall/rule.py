"""One rule of the firewall: what it says about a request, and until when."""

from __future__ import annotations

import enum
import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import EllipsisType
from typing import Any, ClassVar, Final, Literal, overload

from ..events import Direction
from ..identity import PeerId
from ..logs import SparingLog

__all__ = ["RULES", "Predicate", "Rule", "Subject", "Verdict", "left_at", "unknown_type"]

Predicate = Callable[[PeerId, Direction, Any], bool]
"""Gets the peer, the direction and the view of the request. Returns whether it passes."""

MAX_ENDS: Final = 64
"""Ends of one rule, each from an answer for some time: nobody gives more by hand, and a program that does should set a
rule."""


class Verdict(enum.Enum):
    """The result of a rule for one request, by the word for it."""

    ALLOW = "allow"
    REJECT = "reject"
    ASK = "ask"


@dataclass(slots=True)
class Subject:
    """One request, as the firewall sees it."""

    peer: PeerId
    direction: Direction
    type: str | None
    """The request type: the variant of a tagged union, the class of a struct, or the field ``type`` of an untyped object."""
    view: Any
    """The request itself, or the result of ``firewall_view=``."""


class Rule:
    """A rule: :attr:`ALLOW_ALL`, :attr:`REJECT_ALL`, :attr:`ASK`, or made by :meth:`restricted`, and changed by
    :meth:`replace`. Immutable."""

    __slots__ = (
        "_log_failure",
        "end",
        "otherwise",
        "predicate",
        "reasons",
        "rejects_all",
        "strict",
        "then",
        "types",
        "until",
    )

    ALLOW_ALL: ClassVar[Rule]
    """Every request passes, before its body is read."""
    REJECT_ALL: ClassVar[Rule]
    """No request passes; the protocol is not even offered to the peer."""
    ASK: ClassVar[Rule]
    """Each request is a question."""

    def __init__(
        self,
        types: Mapping[str, Verdict],
        otherwise: Verdict,
        predicate: Predicate | None,
        until: datetime | None = None,
        then: Rule | None = None,
        strict: bool = False,
        reasons: bool = False,
    ) -> None:
        self.types: Final[Mapping[str, Verdict]] = dict(types)
        """The verdicts by request type, and by protocol id of a stream; empty for other rules."""
        self.otherwise: Final = otherwise
        """The verdict on other types, and on requests without a type."""
        self.predicate: Final = predicate
        """The deciding function; None for other rules."""
        self.until: Final = until
        """When the rule ends, in UTC; None: never. From then on it is as if it had never been there."""
        self.end: Final = None if until is None else until.timestamp()
        """The same in seconds since 1970."""
        self.then: Final = then
        """What an answer for some time has covered, and comes back at the end. None: the rules of the next layer."""
        self.strict: Final = strict
        """Whether what the rule has let in ends with it: running handlers, and streams."""
        self.reasons: Final = reasons
        """Whether the peer may be told why it was rejected."""
        self.rejects_all: Final = otherwise is Verdict.REJECT and not types and predicate is None
        """Whether no request passes, nor is a question: :attr:`REJECT_ALL`, with whatever options."""
        self._log_failure = SparingLog(logging.ERROR, "a firewall predicate failed on a request: it is rejected")

    @overload
    @classmethod
    def restricted(cls, predicate: Predicate, /) -> Rule: ...

    @overload
    @classmethod
    def restricted(
        cls,
        /,
        *,
        allow: Collection[type | str] = ...,
        ask: Collection[type | str] = ...,
        reject: Collection[type | str] = ...,
        otherwise: Literal["reject", "ask"] = ...,
    ) -> Rule: ...

    @classmethod
    def restricted(
        cls,
        predicate: Predicate | None = None,
        /,
        *,
        allow: Collection[type | str] | None = None,
        ask: Collection[type | str] | None = None,
        reject: Collection[type | str] | None = None,
        otherwise: Literal["reject", "ask"] | None = None,
    ) -> Rule:
        """A rule by request type, or by a function.

        Requests with a type in ``allow`` pass, each of those in ``ask`` is a question, those in ``reject`` are rejected. All
        others, and requests without a type, are rejected (``otherwise="reject"``, the default) or a question
        (``otherwise="ask"``). Types are classes or their names. A type that no request of the peer's ``request_type=`` can
        have is a TypeError when the rule is given to the peer.

        With ``predicate`` instead, requests pass for which it returns True. An exception in it rejects the request, except
        KeyboardInterrupt.

        Raises:
            TypeError: neither or both kinds of arguments are given, or one has the wrong type.
            ValueError: a type is given twice, or ``otherwise`` is neither of the two.
        """
        named = {Verdict.ALLOW: allow, Verdict.ASK: ask, Verdict.REJECT: reject}
        by_type = any(kinds is not None for kinds in (*named.values(), otherwise))
        if (predicate is not None) is by_type:
            raise TypeError("Rule.restricted takes either a predicate or types: allow=, ask=, reject=, otherwise=")
        if predicate is not None:
            if not callable(predicate) or inspect.iscoroutinefunction(predicate):
                raise TypeError(f"a predicate must be a plain function, not {predicate!r}")
            return cls({}, Verdict.REJECT, predicate)
        if otherwise not in (None, "reject", "ask"):
            raise ValueError(f'otherwise= must be "reject" or "ask", not {otherwise!r}')
        types: dict[str, Verdict] = {}
        for verdict, kinds in named.items():
            for name in _names(verdict, kinds):
                if types.setdefault(name, verdict) is not verdict:
                    raise ValueError(f"the type {name!r} is in both {types[name].value}= and {verdict.value}=")
        rest = Verdict.ASK if otherwise == "ask" else Verdict.REJECT
        if all(verdict is rest for verdict in types.values()):  # types make no difference
            return cls.ASK if rest is Verdict.ASK else cls.REJECT_ALL
        return cls(types, rest, None)

    def replace(
        self,
        *,
        until: datetime | EllipsisType | None = ...,
        strict: bool | EllipsisType = ...,
        reasons: bool | EllipsisType = ...,
    ) -> Rule:
        """The same rule with other options; those that are not given stay as they are.

        ``until``: the date at which the rule ends, with its time zone; None: never. A rule that has ended is as if it had
        never been there. A clock that is set back does not prolong it. ``strict``: running handlers and streams that the rule
        has let in end with it. ``reasons``: the peer may be told why it was rejected.

        Raises:
            TypeError: an option has the wrong type.
            ValueError: the date has no time zone.
        """
        end = self.until if isinstance(until, EllipsisType) else None if until is None else _in_utc(until)
        return self._with(
            end,
            None if end is None else left_at(self.then, end.timestamp()),
            strict=self.strict if isinstance(strict, EllipsisType) else _yes_or_no("strict", strict),
            reasons=self.reasons if isinstance(reasons, EllipsisType) else _yes_or_no("reasons", reasons),
        )

    def ending(self, until: datetime, then: Rule | None) -> Rule:
        """The same rule until ``until``; ``then`` holds after that, for what is left of its own time.

        Raises:
            TypeError, ValueError: as for :meth:`replace`.
            ValueError: there would be too many ends.
        """
        until = _in_utc(until)
        rule = self._with(until, left_at(then, until.timestamp()), strict=self.strict, reasons=self.reasons)
        if sum(1 for each in rule.chain if each.until is not None) > MAX_ENDS:
            raise ValueError(f"the rule would change at more than {MAX_ENDS} dates: set one that says what holds")
        return rule

    def allowing(self, type_name: str) -> Rule:
        """The same rule by type, but that requests of this type pass.

        Raises:
            ValueError: the rule has a predicate, and so no types.
        """
        if self.predicate is not None:
            raise ValueError("a rule with a predicate does not tell types apart")
        if self.verdict_on(type_name) is Verdict.ALLOW:
            return self
        types = {**self.types, type_name: Verdict.ALLOW}
        return Rule(types, self.otherwise, None, self.until, self.then, self.strict, self.reasons)

    def lend(self, type_name: str, until: datetime | None) -> Rule:
        """The same rule, but that requests of this type pass until then; None: for good. What the rule covers changes alike,
        and no rule is prolonged.

        Raises:
            TypeError, ValueError: as for :meth:`ending` and :meth:`allowing`.
        """
        until = None if until is None else _in_utc(until)
        allowing = self.allowing(type_name)
        if self.until is None or (until is not None and until < self.until):
            return allowing if until is None or allowing is self else allowing.ending(until, self)
        if self.then is None or until == self.until:
            return allowing
        then = self.then if self.then.predicate is not None else self.then.lend(type_name, until)
        return allowing.ending(self.until, then)

    @property
    def chain(self) -> Iterator[Rule]:
        """The rule, and what comes after its end, one after the other."""
        rule: Rule | None = self
        while rule is not None:
            yield rule
            rule = rule.then

    @property
    def has_options(self) -> bool:
        """Whether it says more than what happens to which requests."""
        return self.until is not None or self.strict or self.reasons

    @property
    def allows_some(self) -> bool:
        """Whether requests may pass without an answer: all, or those of some types."""
        return self.predicate is not None or Verdict.ALLOW in {self.otherwise, *self.types.values()}

    def contains(self, rule: Rule) -> bool:
        """Whether ``rule`` goes on in this one: as it was, or with more types that pass."""
        for each in self.chain:
            if (each.otherwise, each.predicate, each.strict) != (rule.otherwise, rule.predicate, rule.strict):
                return False
            if each.types != {**rule.types, **dict.fromkeys(each.named(Verdict.ALLOW), Verdict.ALLOW)}:
                return False  # what comes after its end may go on, but is not in force
            if rule.until in (None, each.until):
                return True
        return False

    def verdict_on(self, type_name: str | None) -> Verdict:
        """Applies a rule without a predicate to a request of this type."""
        return self.otherwise if type_name is None else self.types.get(type_name, self.otherwise)

    def verdict(self, subject: Subject) -> Verdict:
        """Applies the rule to one request."""
        if self.predicate is None:
            return self.verdict_on(subject.type)
        try:
            allowed = self.predicate(subject.peer, subject.direction, subject.view)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises
            self._log_failure.write(exc_info=error)
            return Verdict.REJECT
        return Verdict.ALLOW if allowed is True else Verdict.REJECT

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return NotImplemented
        return self is other or self._values == other._values

    def __hash__(self) -> int:
        return hash((frozenset(self.types.items()), *self._values[1:]))

    def __reduce__(self) -> str | tuple[type[Rule], _Values]:
        if self == _WHOLE[self.otherwise]:
            return f"Rule.{_NAMES[self.otherwise]}"  # the same object: the gate compares these three by identity
        return Rule, self._values

    def __repr__(self) -> str:
        options = [f"until={self.until.isoformat()}"] if self.until is not None else []
        options += [f"{name}=True" for name in ("strict", "reasons") if getattr(self, name)]
        return self._rule_alone() + (f".replace({', '.join(options)})" if options else "")

    def _rule_alone(self) -> str:
        if self._name is not None:
            return f"Rule.{self._name}"
        if self.predicate is not None:
            return f"Rule.restricted({self.predicate!r})"
        parts = [f"{one.value}={{{', '.join(map(repr, names))}}}" for one in Verdict if (names := self.named(one))]
        if self.otherwise is Verdict.ASK:
            parts.append("otherwise='ask'")
        return f"Rule.restricted({', '.join(parts)})"

    def named(self, verdict: Verdict) -> list[str]:
        """The request types with this verdict, in order."""
        return sorted(name for name, its in self.types.items() if its is verdict)

    def _with(self, until: datetime | None, then: Rule | None, *, strict: bool, reasons: bool) -> Rule:
        rule = Rule(self.types, self.otherwise, self.predicate, until, then, strict, reasons)
        whole = _WHOLE[self.otherwise]
        return whole if rule == whole else rule

    @property
    def _values(self) -> _Values:
        return self.types, self.otherwise, self.predicate, self.until, self.then, self.strict, self.reasons

    @property
    def _name(self) -> str | None:
        return None if self.types or self.predicate is not None else _NAMES[self.otherwise]


_Values = tuple[Mapping[str, Verdict], Verdict, Predicate | None, datetime | None, Rule | None, bool, bool]


def _names(verdict: Verdict, kinds: Collection[type | str] | None) -> list[str]:
    given = frozenset(kinds or ())
    if isinstance(kinds, str) or not all(isinstance(kind, type | str) for kind in given):
        raise TypeError(f"{verdict.value}= takes a set of classes or names, not {kinds!r}")
    return [kind if isinstance(kind, str) else kind.__name__ for kind in given]


def _in_utc(until: object) -> datetime:
    if not isinstance(until, datetime):
        raise TypeError(f"until= takes a datetime with a time zone, not {until!r}")
    if until.utcoffset() is None:
        raise ValueError(f"until= takes a datetime with a time zone; {until.isoformat()} has none")
    try:
        return until.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"until= takes a date before the year 10000 in UTC, not {until.isoformat()}") from None


def _yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}= must be True or False, not {value!r}")
    return value


def left_at(rule: Rule | None, now: float) -> Rule | None:
    """What is left of a rule ``now``, in seconds since 1970."""
    while rule is not None and rule.end is not None and rule.end <= now:
        rule = rule.then
    return rule


def unknown_type(name: str, types: frozenset[str] | None) -> str | None:
    """The error for ``name`` if it is not in ``types``, the names of all request types (None: any); None if valid. What
    begins with "/" is the protocol of a stream."""
    if types is None or name in types or name.startswith("/"):
        return None
    if not types:
        return f"no request has the type {name!r}: requests of this peer have no types"
    import difflib  # a fiftieth of the library's own import, for a mistake

    similar = difflib.get_close_matches(name, types, n=1)
    hint = f"did you mean {similar[0]!r}?" if similar else f"known types are {', '.join(map(repr, sorted(types)))}"
    return f"no request has the type {name!r}; {hint}"


_NAMES = {Verdict.ALLOW: "ALLOW_ALL", Verdict.REJECT: "REJECT_ALL", Verdict.ASK: "ASK"}
_WHOLE = {verdict: Rule({}, verdict, None) for verdict in Verdict}
Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK = map(_WHOLE.__getitem__, Verdict)

RULES: Final = {verdict.value: rule for verdict, rule in _WHOLE.items()}
"""The three, by the word for what they say."""
