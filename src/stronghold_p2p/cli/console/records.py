"""What pages are told of questions, decisions, rules and connections: JSON, safe to show whatever a remote has put into it."""

from __future__ import annotations

import time
from asyncio import get_running_loop
from itertools import islice
from typing import Any

from ...events import ConnectionInfo, FirewallDecision, RequestHandled
from ...events.direction import direction_word
from ...firewall.questions import FirewallRequest
from ...firewall.rules import Rule, RuleInForce, Verdict
from ...identity import PeerId
from .. import paths
from ..ask.shown import MAX_TYPE, type_is_whole, view_text
from ..text import printable

__all__ = ["Record", "banned", "connection", "decision", "end", "question", "rule"]

MAX_VIEW = 4000
"""Characters that are shown of a request: a page scrolls, so they may be more than a terminal has."""

MAX_TEXT = 200
"""Characters that are shown of any other text."""

MAX_TYPES = 50
"""Types that are named of a rule; people write few, answers add one each."""

MAX_CHAIN = 5
"""Rules that are shown of those that come one after the other ends."""

Record = dict[str, Any]


def question(asked: FirewallRequest) -> Record:
    """As long as it is open."""
    return {
        "id": asked.id,
        "kind": asked.kind,
        **_who(asked),
        "path": _path(asked.address),
        "address": None if asked.address is None else str(asked.address),
        "network": asked.network,
        "whole": type_is_whole(asked),
        "view": view_text(asked.view, MAX_VIEW, in_lines=True),
        "need": asked.need,
        "expires": time.time() + asked.expires - get_running_loop().time(),
    }


def end(asked: FirewallRequest) -> Record:
    """Once it has ended."""
    return {"id": asked.id, **_who(asked), "outcome": asked.outcome, "by": asked.by, "reason": _text(asked.reason)}


def decision(made: FirewallDecision, at: float, handled: RequestHandled | None) -> Record:
    """``at``: when it was made, in seconds since the epoch. ``handled``: what became of the request, if that is known."""
    return {
        "id": made.id,
        "at": at,
        **_who(made),
        "path": _path(made.address),
        "rule": _text(made.rule),
        "layer": made.layer,
        "line": made.line,
        "allowed": made.allowed,
        "by": made.by,
        "how": made.how,
        "waited": made.waited,
        "reason": _text(made.reason),
        "observed": made.observed,
        "outcome": None if handled is None else handled.outcome,
        "seconds": None if handled is None else handled.seconds,
    }


def connection(info: ConnectionInfo, name: str | None) -> Record:
    return {
        "peer": str(info.peer),
        "name": _text(name),
        "address": str(info.address),
        "direction": direction_word(info.direction),
        "path": paths.in_words(info.path.relay, info.path.limits),
        "transport": info.path.transport,
        "since": info.opened_at,
    }


def rule(its: RuleInForce, name: str | None) -> Record:
    return {
        "peer": None if its.peer is None else str(its.peer),
        "name": _text(name),
        "direction": direction_word(its.direction),
        "layer": its.layer,
        "line": its.line,
        "says": [] if its.rule is None else [_said(each) for each in islice(its.rule.chain, MAX_CHAIN)],
    }


def banned(peer: PeerId, name: str | None) -> Record:
    return {"peer": str(peer), "name": _text(name)}


def _said(rule: Rule) -> Record:
    """One rule of those that come one after the other."""
    named = [(name, verdict) for verdict in Verdict for name in rule.named(verdict)]
    return {
        "types": [[_text(name), verdict.value] for name, verdict in named[:MAX_TYPES]],
        "more": max(0, len(named) - MAX_TYPES),
        "otherwise": "predicate" if rule.predicate is not None else rule.otherwise.value,
        "until": None if rule.until is None else rule.until.timestamp(),
        "strict": rule.strict,
    }


def _who(about: FirewallRequest | FirewallDecision) -> Record:
    return {
        "peer": str(about.peer),
        "name": _text(about.name),
        "direction": direction_word(about.direction),
        "type": _text(about.type, MAX_TYPE),
    }


def _path(address: Any) -> str:
    return "not connected" if address is None else paths.in_words(paths.relay_of(address))


def _text(text: str | None, limit: int = MAX_TEXT) -> str | None:
    return None if text is None else printable(text, limit)
