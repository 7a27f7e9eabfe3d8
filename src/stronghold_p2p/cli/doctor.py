"""``doctor``: why peers can or cannot be reached."""

from __future__ import annotations

import textwrap
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ..addresses.target import parse_target
from ..firewall.policy import Policy
from . import output
from .command import KeyFile, PassphraseFile, load_key, time_option
from .names import PolicyFile, latest_address, load_policy, named, read_names

if TYPE_CHECKING:
    from ..diagnosis import Diagnosis, Finding

__all__ = ["doctor"]

WIDTH: Final = 110
"""Characters of a line."""

INDENT: Final = 24
"""Characters before the text of a finding: its verdict and the name of its check."""

FOUND_PROBLEMS: Final = 1
"""The exit status if there is a problem."""


def doctor(
    *,
    relay: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDR", help="Try this relay: dial it, and reserve there for a moment. Repeatable."),
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR",
            help="Try to reach this peer, directly and through the relays: an address; or its peer id or name, to try where"
            " the state file has it, or else to find it on the local network.",
        ),
    ] = None,
    policy: PolicyFile = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A state file, whose names count, and addresses.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Look up this name, such as example.com or /dnsaddr/example.com. Repeatable."
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR",
            help="Where the peer is to listen, such as /ip4/0.0.0.0/tcp/4001 (default: a free port of every interface).",
        ),
    ] = None,
    announce: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR",
            help="Have this address tested, too: of a port that a router forwards to that of --listen. Repeatable.",
        ),
    ] = None,
    seconds: Annotated[float, time_option("Seconds for all checks together.")] = 13.0,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> Coroutine[Any, Any, None]:
    """Find out why peers can or cannot be reached.

    Checks the interfaces, names, mDNS, each --relay, the clock, port mapping, the --peer, the kind of NAT, and whether peers
    elsewhere can dial this machine. Each check has a verdict: ok, note, problem, unknown or skipped. A summary says how
    peers elsewhere can reach this machine, and what to do. The exit status is 1 if there is a problem.

    Nothing stays: a mapped port and reservations are given back. Run it without --key, or stop the peer with that key first:
    a relay may take its reservation for ours, and end both.
    """
    from ..diagnosis import diagnose  # with all that only this command needs

    keypair = load_key(key, passphrase_file)
    rules = load_policy(policy)
    output.name_peers(read_names(rules, state).name_of)
    return _doctor(
        diagnose(
            relays=[_address(one, rules, state) for one in relay or ()],
            peer=None if peer is None else _address(peer, rules, state),
            names=name or (),
            listen=listen,
            announce=announce or (),
            keypair=keypair,
            seconds=seconds,
            tell=_tell,
        )
    )


def _address(target: str, policy: Policy | Path | None, state: Path | None) -> str:
    """Where to try a peer or a relay: of one that is given without an address, where the state file has it."""
    target = named(target, policy, state)
    alone = parse_target(target)[1] is None
    return (state is not None and alone and latest_address(state, target)) or target


async def _doctor(diagnosing: Coroutine[Any, Any, Diagnosis]) -> None:
    diagnosis = await diagnosing
    _summarize(diagnosis)
    if diagnosis.problems:
        raise typer.Exit(FOUND_PROBLEMS)


def _tell(finding: Finding) -> None:
    record = {"event": "finding", **asdict(finding)}
    output.result(record, _paragraph(finding.verdict, finding.check, finding.what, finding.advice))


def _summarize(diagnosis: Diagnosis) -> None:
    record = {
        "event": "summary",
        "reach": diagnosis.reach,
        "problems": diagnosis.problems,
        "what": diagnosis.what,
        "advice": diagnosis.advice,
    }
    output.result(record, _paragraph("summary", "", diagnosis.what, diagnosis.advice))


def _paragraph(verdict: str, check: str, what: str, advice: str | None) -> str:
    lines = _wrapped(f"{verdict:<8} {check.replace('_', ' '):<14}", output.named(what))
    if advice is not None:
        lines += _wrapped("", f"Do: {advice}")
    return "\n".join(lines)


def _wrapped(head: str, text: str) -> list[str]:
    """Names and addresses stay whole, to be copied."""
    indent = " " * INDENT
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{head:<{INDENT}}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
