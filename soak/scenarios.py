"""The scenarios: load that goes on, that is too much, and that goes on while processes die and handlers misbehave."""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from attack.run import Process
from soak.listener import FAILED_HANDLER, STALL, WORKERS, Terms
from soak.processes import Processes
from soak.terms import Findings, Options, Scenario

__all__ = ["SCENARIOS"]

ARRIVALS = 20
"""New peers a second, of all: a handshake costs both sides milliseconds, and there are requests beside."""

GROWTH = 4.0
"""10^6 bytes that memory may grow between the second quarter and the last one: tables that have limits fill meanwhile."""

STEADY = 50
"""Peers that ask all the while, one request each in flight."""

PAUSE = 0.2
"""Seconds between the requests of one of these."""

RELAYED = 4
"""The same, through a relay, which takes 240 circuits a minute of their network while there is no reservation."""

PATIENCE = 2.0
"""Seconds for a request where some fail."""

RECOVERY = 10.0
"""Seconds until all are answered again, at the latest."""

KILLS = 3


# -- load that goes on -------------------------------------------------------------------------------------


def churn(processes: Processes, options: Options, findings: Findings) -> None:
    """Two processes of peers that come, ask and leave."""
    listen = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
    listener, addresses = processes.listener(Terms(name="listener", listen=listen, loop=options.loop))
    before = listener.ask("settled")
    halves = [processes.askers() for _ in range(2)]
    for half in halves:
        half.ask(["come", addresses, options.peers // 2, options.peers / ARRIVALS])
    memory: list[float] = []
    most = 0
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline:
        time.sleep(min(1.0, options.seconds / 20))
        figures = listener.ask()
        memory.append(figures["memory"])
        most = max(most, figures["connections"])
    asked = [half.ask("end") for half in halves]
    after = settled(listener, before)
    quarter = len(memory) // 4
    growth = fmean(memory[-quarter:]) - fmean(memory[quarter : 2 * quarter])
    came = sum(half["came"] for half in asked)
    findings.tell(f"{came:,} peers came, {most:,} at once; {sum(half['answered'] for half in asked):,} answers")
    findings.tell(f"p99 {1e3 * max(half['p99'] for half in asked):,.0f} ms")
    findings.tell(
        f"memory {memory[quarter]:.0f} to {memory[-1]:.0f} MB, {growth:+.1f} from the second quarter to the last"
    )
    findings.tell(f"{(after['objects'] - before['objects']) / came:.1f} objects a peer are left")
    for half in asked:
        answered_well(findings, half)
        findings.must(not half["failed"], f"requests failed: {half['failed']}")
    findings.must(most > options.peers / 2, f"no more than {most} peers were connected at once")
    findings.must(growth < GROWTH, f"memory grew by {growth:.1f} MB, not less than {GROWTH:g}")
    nothing_left(findings, before, after)


# -- load that is too much ---------------------------------------------------------------------------------


def overload(
    kind: str, processes: Processes, options: Options, findings: Findings, *, workers: int | None = None
) -> None:
    """Twice as many requests as can be served, from peers that do not wait."""
    seconds = min(options.seconds / 2, 30.0)
    listener, addresses = processes.listener(Terms(name="listener", workers=workers, loop=options.loop))
    askers = processes.askers()
    before = listener.ask("settled")

    def ask(what: str, rate: float, duration: float) -> dict[str, Any]:
        askers.ask([what, addresses, STEADY, kind, rate, PATIENCE])
        time.sleep(min(1.0, duration / 4))
        askers.ask("begin")
        time.sleep(duration)
        figures: dict[str, Any] = askers.ask()
        askers.ask("end")
        return figures

    rate = ask("ask", 0.0, seconds / 4)["per_second"]
    quiet = ask("flood", rate / 4, seconds / 4)
    listener.ask()
    flooded = ask("flood", 2 * rate, seconds)
    peak = listener.ask()["memory_peak"] - before["memory"]
    after = ask("flood", rate / 4, seconds / 4)
    findings.tell(f"{rate:,.0f} a second can be served")
    findings.tell(f"of twice as many {flooded['per_second']:,.0f} are, p99 {1e3 * flooded['p99']:,.0f} ms")
    findings.tell(f"{peak:+.0f} MB; then p99 {1e3 * after['p99']:,.0f} ms, before {1e3 * quiet['p99']:,.0f}")
    for figures in quiet, flooded, after:
        answered_well(findings, figures)
    findings.must(flooded["per_second"] > rate / 2, "fewer than half of what can be served was")
    findings.must(flooded["p99"] < 1.5 * PATIENCE, "what was served took too long")
    findings.must(not after["failed"], f"afterwards requests failed: {after['failed']}")
    findings.must(peak < 100, f"memory grew by {peak:.0f} MB, not less than 100")
    nothing_left(findings, before, settled(listener, before))


# -- processes that die ------------------------------------------------------------------------------------


def listener_killed(processes: Processes, options: Options, findings: Findings) -> None:
    """Under load, while it writes its state file; then it is started again where it was."""
    with tempfile.TemporaryDirectory() as folder:
        terms = Terms(name="listener", state=f"{folder}/state.db", loop=options.loop)
        listener, addresses = processes.listener(terms)
        terms = replace(terms, listen=tuple(address.rpartition("/p2p/")[0] for address in addresses))
        askers = steady(processes, addresses)
        recovered = 0.0
        for _ in range(KILLS):
            time.sleep(random.uniform(0.2, 1.0))
            banned = listener.ask()["banned"]
            listener.end()
            findings.must(is_whole(Path(folder, "state.db"), banned), f"the state file has not all of {banned} bans")
            listener, _ = processes.listener(terms)
            recovered = max(recovered, answered_again(askers))
        findings.tell(f"killed {KILLS} times, each peer answered again within {recovered:.2f} s")
        judge_interrupted(findings, askers.ask("end"), recovered)


def dialer_killed(processes: Processes, options: Options, findings: Findings) -> None:
    """Half of all peers disappear under load; the others notice nothing, and nothing of them is left."""
    listener, addresses = processes.listener(Terms(name="listener", loop=options.loop))
    before = listener.ask("settled")
    staying = steady(processes, addresses)
    alone = listener.ask()["connections"]
    for _ in range(KILLS):
        dying = steady(processes, addresses)
        dying.end()
        begin = time.monotonic()
        while (left := listener.ask()["connections"]) > alone and time.monotonic() - begin < RECOVERY:
            time.sleep(0.01)
        findings.must(left == alone, f"{left - alone} connections of processes that are gone are left")
    asked = staying.ask("end")
    findings.tell(f"{KILLS} times {STEADY} peers died; the others: p99 {1e3 * asked['p99']:,.0f} ms")
    answered_well(findings, asked)
    findings.must(not asked["failed"], f"requests of the others failed: {asked['failed']}")
    nothing_left(findings, before, settled(listener, before))


def relay_killed(processes: Processes, options: Options, findings: Findings) -> None:
    """Its circuits are in use; it is started again where it was."""
    terms = Terms(name="relay", relay=True, loop=options.loop)
    relay, (relay_address,) = processes.listener(terms)
    terms = replace(terms, listen=(relay_address.rpartition("/p2p/")[0],))
    _, addresses = processes.listener(Terms(name="listener", via=relay_address, loop=options.loop))
    askers = steady(processes, addresses, RELAYED)
    time.sleep(random.uniform(0.2, 1.0))
    relay.end()
    processes.listener(terms)
    recovered = answered_again(askers)  # once only: who loses reservations one after the other waits longer each time
    findings.tell(f"each peer answered again within {recovered:.2f} s")
    judge_interrupted(findings, askers.ask("end"), recovered)


# -- handlers and systems that fail ------------------------------------------------------------------------


def blocked(processes: Processes, options: Options, findings: Findings) -> None:
    """A handler holds the loop for seconds, again and again: no connection is lost for that."""
    listener, addresses = processes.listener(Terms(name="listener", loop=options.loop))
    askers = steady(processes, addresses, patience=4 * STALL)
    connected = listener.ask()["connections"]
    blocker = processes.askers()
    blocker.ask(["ask", addresses, 1, "blocks", PAUSE, 4 * STALL])
    time.sleep(2.5 * STALL)
    blocker.ask("end")
    asked = askers.ask("end")
    findings.tell(f"blocked for {STALL:g} s each; the others: longest {asked['longest']:.1f} s, none failed")
    answered_well(findings, asked)
    findings.must(not asked["failed"], f"requests failed: {asked['failed']}")
    findings.must(connected >= STEADY, f"only {connected} were connected")


def never(processes: Processes, options: Options, findings: Findings) -> None:
    """Handlers that do not return end by their time limit; others are served meanwhile."""
    listener, addresses = processes.listener(Terms(name="listener", loop=options.loop))
    before = listener.ask("settled")
    askers = steady(processes, addresses)
    held = processes.askers()
    held.ask(["ask", addresses, STEADY, "never", PAUSE, FAILED_HANDLER + RECOVERY])
    deadline = time.monotonic() + FAILED_HANDLER + RECOVERY
    while sum((failed := held.ask()["failed"]).values()) < STEADY and time.monotonic() < deadline:
        time.sleep(0.1)
    held.ask("end")
    asked = askers.ask("end")
    findings.tell(f"{failed.get('StreamReset', 0)} handlers ended; the others: p99 {1e3 * asked['p99']:,.0f} ms")
    answered_well(findings, asked)
    findings.must(not asked["failed"], f"requests failed: {asked['failed']}")
    findings.must(failed == {"StreamReset": STEADY}, f"handlers that do not return ended as {failed}")
    nothing_left(findings, before, settled(listener, before))


def descriptors(processes: Processes, options: Options, findings: Findings) -> None:
    """More peers come than the process has descriptors; as some leave, the others are answered."""
    listener, addresses = processes.listener(Terms(name="listener", descriptors=48, loop=options.loop))
    before = listener.ask()
    flood = processes.askers()
    flood.ask(["ask", addresses, 4 * STEADY, "echo", PAUSE, PATIENCE])
    begin = time.monotonic()
    time.sleep(min(5.0, options.seconds / 2))
    lines = len(processes.logged()) / (time.monotonic() - begin)
    flooded = flood.ask("end")
    begin = time.monotonic()
    asked = steady(processes, addresses, 8).ask("end")
    recovered = time.monotonic() - begin
    findings.tell(f"{flooded['answered']:,} answers meanwhile, {lines:.1f} lines of log a second")
    findings.tell(f"then each answered within {recovered:.2f} s")
    answered_well(findings, flooded)
    findings.must(asked["wrong"] == 0, f"{asked['wrong']} wrong answers")
    findings.must(lines < 5, f"{lines:.0f} lines of log a second")
    findings.must(recovered < RECOVERY, f"not answered within {RECOVERY:g} s")
    findings.must(listener.ask()["tasks"] < before["tasks"] + 48, "tasks are left")


# -- what they share ---------------------------------------------------------------------------------------


def steady(processes: Processes, addresses: list[str], peers: int = STEADY, *, patience: float = PATIENCE) -> Process:
    """Peers that ask all the while, each of which has been answered."""
    askers = processes.askers()
    askers.ask(["ask", addresses, peers, "echo", PAUSE, patience])
    answered_again(askers)
    askers.ask("begin")
    return askers


def answered_again(askers: Process) -> float:
    """Waits until each has been answered from now on; how many seconds that took."""
    begin = time.monotonic()
    while time.monotonic() - begin < RECOVERY:
        silent = askers.ask()["silent"]
        elapsed = time.monotonic() - begin
        if silent < elapsed:
            return elapsed
        time.sleep(0.02)
    return RECOVERY


def settled(listener: Process, before: dict[str, float]) -> dict[str, float]:
    """Once all peers have left; else after a while."""
    deadline = time.monotonic() + RECOVERY
    while True:
        figures: dict[str, float] = listener.ask("settled")
        if time.monotonic() > deadline or all(figures[each] <= before[each] for each in LEFT):
            return figures
        time.sleep(0.1)


LEFT = ("connections", "streams", "tasks", "descriptors")


def nothing_left(findings: Findings, before: dict[str, float], after: dict[str, float]) -> None:
    for each in LEFT:
        findings.must(after[each] <= before[each], f"{after[each] - before[each]:.0f} {each} are left")


def answered_well(findings: Findings, asked: dict[str, Any]) -> None:
    findings.must(asked["wrong"] == 0, f"{asked['wrong']} wrong answers")
    findings.must(bool(asked["answered"]), "nothing was answered")


def judge_interrupted(findings: Findings, asked: dict[str, Any], recovered: float) -> None:
    findings.must(asked["wrong"] == 0, f"{asked['wrong']} wrong answers")
    findings.must(recovered < RECOVERY, f"not all were answered within {RECOVERY:g} s")
    findings.must(asked["longest"] < PATIENCE + 1.0, f"a request took {asked['longest']:.1f} s")


def is_whole(state: Path, banned: int) -> bool:
    with closing(sqlite3.connect(state)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        (kept,) = connection.execute("SELECT count(*) FROM bans").fetchone()
    return bool(verdict == "ok" and kept >= banned)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="churn", what="peers that come, ask and leave", run=churn, quick=True),
        Scenario(
            name="overload-computes",
            what="twice what can be served; handlers compute",
            run=partial(overload, "computes"),
        ),
        Scenario(
            name="overload-waits",
            what="twice what can be served; a few workers wait",
            run=partial(overload, "waits", workers=WORKERS),
        ),
        Scenario(
            name="listener-killed",
            what="kill -9 of the listener, which writes its state",
            run=listener_killed,
            quick=True,
        ),
        Scenario(name="dialer-killed", what="kill -9 of half of the peers", run=dialer_killed, quick=True),
        Scenario(
            name="relay-killed",
            what="kill -9 of a relay between the peers",
            run=relay_killed,
            quick=True,
            allowed=("the reservation at the relay", "as a relay, refused a circuit"),
        ),
        Scenario(name="blocked", what="a handler that blocks the loop", run=blocked, allowed=("slow", "handler")),
        Scenario(name="never", what="handlers that do not return", run=never, allowed=("handler", "slow")),
        Scenario(
            name="descriptors",
            what="more peers than descriptors",
            run=descriptors,
            quick=True,
            allowed=("no connection can be accepted: too many open files", "is reached: "),
        ),
    )
}
