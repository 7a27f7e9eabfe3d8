"""A policy on trial: it decides nothing, and what it would have decided is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, NamedTuple

from ..identity import PeerId
from ..logs import SparingLog
from ..multiaddr import Multiaddr
from .admission import Admission, AdmissionRules
from .ends import Clocks
from .rules import AppliedRule, Direction, Firewall, FirewallRules, Lines, Verdict

__all__ = ["Judgement", "Trial"]

WOULD: Final[Mapping[Verdict, str]] = {
    Verdict.ALLOW: "let it pass",
    Verdict.REJECT: "rejected it",
    Verdict.ASK: "asked",
}


class Judgement(NamedTuple):
    """What a policy says of a request."""

    verdict: Verdict
    layer: str
    """That of its rule; ``connections``: it would refuse that of the peer."""
    line: int | None
    """That of its rule."""

    def agrees(self, *, allowed: bool, asked: bool) -> bool:
        """Whether a decision was the same; ``asked``: it was left to others."""
        return asked if self.verdict is Verdict.ASK else allowed is (self.verdict is Verdict.ALLOW)


class Trial:
    """Compares decisions with those of a policy that is not in force: by its rules, and by whom it refuses connections. Its
    limits are not looked at."""

    def __init__(
        self,
        rules: FirewallRules,
        lines: Lines,
        admission: AdmissionRules,
        clocks: Clocks = Clocks(),  # noqa: B008 - it is immutable
    ) -> None:
        self._firewall = Firewall(FirewallRules(outbound=None), clocks)
        self._firewall.set_policy(rules, lines)
        self._admission = Admission()
        self._admission.set_policy(admission)
        self._log = SparingLog(
            logging.WARNING, "a request %s %s of type %.100r %s; the policy on trial would have %s%s"
        )  # the type is its sender's own text

    def observe(
        self,
        peer: PeerId,
        direction: Direction,
        type_name: str | None,
        address: Multiaddr | None,
        applied: AppliedRule,
        *,
        allowed: bool,
        asked: bool,
    ) -> bool | None:
        """Whether the policy would have let the request pass; None: it would have asked. ``applied`` is the rule that was
        found, ``asked`` whether its decision was left to others. Logs what differs."""
        judged = self.judge(peer, direction, type_name, address, applied.layer)
        if judged is None:
            return allowed
        verdict, _, line = judged
        if not judged.agrees(allowed=allowed, asked=asked):
            self._log.write(
                "from" if direction is Direction.INBOUND else "to",
                peer,
                type_name,
                "passed" if allowed else "was rejected",
                WOULD[verdict],
                "" if line is None else f" (line {line})",
            )
        return None if verdict is Verdict.ASK else verdict is Verdict.ALLOW

    def judge(
        self, peer: PeerId, direction: Direction, type_name: str | None, address: Multiaddr | None, layer: str
    ) -> Judgement | None:
        """What the policy says of a request for which the rule that was found was of ``layer``. None: nothing that goes before
        that."""
        if layer == "suspended":
            return None
        if self._refuses(peer, address):
            return Judgement(Verdict.REJECT, "connections", None)
        rule, its, line = self._firewall.find(peer, direction)
        if rule is None or (its == "policy default" and layer == "peer"):
            return None
        return Judgement(rule.verdict_on(type_name), its, line)

    def _refuses(self, peer: PeerId, address: Multiaddr | None) -> bool:
        admission = self._admission
        return admission.refusal_of_peer(peer) is not None or (
            address is not None and admission.refusal_of_address(address, peer) is not None
        )
