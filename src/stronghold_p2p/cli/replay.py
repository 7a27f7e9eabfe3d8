"""``firewall replay``: which decisions of the past a policy would make otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import typer

from ..errors import InvalidAddress, StrongholdError
from ..events.direction import DIRECTIONS
from ..firewall.policy import Policy
from ..firewall.rules import Verdict
from ..firewall.trial import Judgement, Trial
from ..identity import PeerId
from ..multiaddr import Multiaddr
from . import output
from .audit.chain import MAX_LINE
from .audit.file import TORN
from .names import read_names
from .rule_text import place_text, type_text

__all__ = ["InvalidAudit", "replay"]

REQUIRED: Final = {"peer", "direction", "type", "allowed"}
"""What every decision has, of whatever version; other lines do not have all of them."""

WOULD_BE: Final = {Verdict.ALLOW: "allowed", Verdict.REJECT: "rejected", Verdict.ASK: "asked about"}


class InvalidAudit(StrongholdError):
    """A file is no audit, or cannot be read. ``line`` counts from 1; 0: no single line is at fault."""

    def __init__(self, path: object, line: int, reason: str) -> None:
        super().__init__(f"audit file {path}{f', line {line}' if line else ''}: {reason}")
        self.path = str(path)
        self.line = line
        self.reason = reason


class Past(msgspec.Struct):
    """A decision, as an audit has it. What later versions add is not looked at."""

    peer: str
    direction: Literal["inbound", "outbound"]
    type: str | None
    allowed: bool
    time: str | None = None
    address: str | None = None
    layer: str = "none"
    rule: str | None = None
    by: str | None = None
    how: str | None = None
    waited: float = 0.0

    @property
    def asked(self) -> bool:
        """Whether it was left to others. Old audits do not tell who decided."""
        return self.by != "rule" if self.by is not None else self.waited > 0 or self.rule in (None, "Rule.ASK")


def replay(
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="The file of `listen --audit`.")],
    *,
    policy: Annotated[Path, typer.Option("--policy", metavar="FILE", help="The new policy file.")],
) -> None:
    """Show which past decisions a policy would change.

    Its rules are taken as they are now. What it leaves to rules of answers and of the program stays as it was, if these have
    decided it, and is open if the old policy has. Limits are not looked at.
    """
    loaded = Policy.load(policy, wait=True)
    output.name_peers(read_names(loaded).name_of)
    trial = Trial(loaded.rules, loaded.rule_lines, loaded.admission)
    counts: Counter[str] = Counter()
    for line, past in _lines(audit):
        if past is None:
            counts["others"] += 1
            continue
        counts["decisions"] += 1
        peer, address = _parsed(audit, line, past)
        judged = trial.judge(peer, DIRECTIONS[past.direction], past.type, address, past.layer)
        if (change := _change(past, judged)) is not None:
            counts["open" if judged is None else "changed"] += 1
            _tell(line, past, peer, judged, change)
    totals = {key: counts[key] for key in ("decisions", "changed", "open", "others")}
    output.result(
        {"event": "summary", **totals},
        f"decisions {totals['decisions']:,}, would change {totals['changed']:,}, left open {totals['open']:,}",
    )


def _change(past: Past, judged: Judgement | None) -> str | None:
    """What would be instead; None: the same."""
    if judged is None:
        return "open" if past.layer.startswith("policy") else None
    if (past.how == "limit" or past.layer == "suspended") and judged.verdict is not Verdict.REJECT:
        return None  # what the rules say of it comes after that
    return None if judged.agrees(allowed=past.allowed, asked=past.asked) else WOULD_BE[judged.verdict]


def _tell(line: int, past: Past, peer: PeerId, judged: Judgement | None, change: str) -> None:
    was = "allowed" if past.allowed else "rejected"
    layer, its_line = ("none", None) if judged is None else (judged.layer, judged.line)
    record = {
        "event": "change",
        "line": line,
        "time": past.time,
        **output.peer_record(peer),
        "direction": past.direction,
        "type": past.type,
        "was": was,
        "would": change,
        "layer": layer,
        "policy_line": its_line,
    }
    kind = "without a type" if past.type is None else type_text(past.type)
    why = "the policy does not decide it" if judged is None else place_text(layer, its_line)
    output.result(
        record, f"line {line}: {output.who(peer)}, {past.direction} {kind}: was {was}, would be {change}: {why}"
    )


# -- reading -------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, Past | None]]:
    """Each line with its number; None for one that is no decision.

    Raises:
        InvalidAudit: the file cannot be read, or a line is none of an audit.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE + 1), b""), 1):
                if len(line) > MAX_LINE:
                    raise InvalidAudit(path, number, f"over {MAX_LINE:,} bytes: no line of an audit")
                yield number, _decision(path, number, line)
    except OSError as error:
        raise InvalidAudit(path, 0, (error.strerror or str(error)).lower()) from error


def _decision(path: Path, number: int, line: bytes) -> Past | None:
    try:
        record = msgspec.json.decode(line)
        if not isinstance(record, dict):
            raise InvalidAudit(path, number, "expected an object of JSON")
        return msgspec.convert(record, Past) if record.keys() >= REQUIRED else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        if not line.endswith(b"\n") or line.endswith(TORN):
            return None  # it is being written, or was cut off
        raise InvalidAudit(path, number, f"no line of an audit: {error}") from None


def _parsed(path: Path, number: int, past: Past) -> tuple[PeerId, Multiaddr | None]:
    try:
        return PeerId.parse(past.peer), None if past.address is None else Multiaddr.parse(past.address)
    except InvalidAddress as error:
        raise InvalidAudit(path, number, str(error)) from None
