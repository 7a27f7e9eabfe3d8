"""Writes docs/BENCHMARKS.md and its charts: the figures, and how they compare with the goals."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import limit, programs, relays
from bench.cases import (
    CASES,
    COMPILED,
    FAULTS_OF_A_GIGABYTE,
    GIGABYTE,
    GOALS,
    LIMIT,
    OURS,
    OVER_WEBSOCKET,
    Case,
    Goal,
    Rounds,
)
from bench.systems import Measured, Took
from bench.usage import Machine

__all__ = ["Result", "number", "programmed", "relayed", "text", "verdict", "write"]

OWN = {OURS: "pure Python", COMPILED: "compiled"}
"""Our builds, which have goals."""

DOCS = Path(__file__).resolve().parent.parent / "docs"
CHARTS = DOCS / "benchmarks"
NOTES = CHARTS / "NOTES.md"
"""The hand-written end of the report."""


@dataclass(frozen=True)
class Result:
    """One run."""

    rounds: int
    measured: Mapping[str, Mapping[str, Sequence[Measured]]]
    """By case and by system: of each round."""
    versions: Mapping[str, Mapping[str, str]]
    programmed: programs.Figures
    relayed: relays.Figures
    scale: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """By build of ours: the rows of scale.py by name."""
    machine: Machine
    """From the first measurement to the end."""

    def rounds_of(self, case: Case) -> Rounds:
        """The figure that counts."""
        systems = self.measured.get(case.name, {})
        return {name: [one.figures[case.figure] for one in rounds] for name, rounds in systems.items()}

    def medians_of(self, case: Case) -> dict[str, float]:
        return {name: statistics.median(figures) for name, figures in self.rounds_of(case).items()}

    def took(self, case: Case, system: str) -> list[tuple[Measured, Took]]:
        """Of each round; empty if its program does not tell when it begins."""
        rounds = self.measured.get(case.name, {}).get(system, ())
        return [(one, one.took) for one in rounds if one.took is not None]


def text(result: Result) -> str:
    """The tables, as Markdown; those of what was not measured are left out."""
    parts = (absolute(result), ratios(result), spent(result), faults(result), programmed(result.programmed))
    rest = (relayed(result.relayed), scaled(result), disturbed(result))
    return "\n\n".join(part for part in (*parts, *rest) if part)


def absolute(result: Result) -> str:
    """Figures by system and case."""
    cases = [case for case in CASES if case.name in result.measured]
    medians = {case.name: result.medians_of(case) for case in cases}
    names = dict.fromkeys(name for case in cases for name in medians[case.name])
    ordered = sorted(names, key=lambda name: (name not in OWN, name == LIMIT))
    head = ["", *(f"{case.name}, {case.unit}" for case in cases)]
    return table([head, *([name, *(number(medians[case.name].get(name)) for case in cases)] for name in ordered)])


def ratios(result: Result) -> str:
    """Ratios of our figures to those of others, with the goals."""
    rounds = {case.name: result.rounds_of(case) for case in CASES}
    rows = [["work", "compared with", *OWN.values(), "goal", ""]]
    for goal in GOALS:
        measured = rounds[goal.case]
        found = [goal.ratios(ours, measured) for ours in OWN]
        if not any(found):
            continue
        work, others = f"{goal.case}, /ws", "the same over TCP"
        if goal.others:
            work, others = goal.case, best_of(goal.measured(measured))
        reached = [
            goal.reached(ratios[0], factor) if ratios and factor is not None else None
            for ratios, factor in zip(found, (goal.pure, goal.compiled), strict=True)
        ]
        told = verdict(reached)
        if goal.stretch is not None and found[-1] and goal.reached(found[-1][0], goal.stretch):
            told += ", and the stretch"
        rows.append([work, others, *map(spread, found), wanted(goal), told])
    return table(rows) if len(rows) > 1 else ""


def wanted(goal: Goal) -> str:
    bound = "at most" if goal.less_is_better else "at least"
    pure = "" if goal.pure in {None, goal.compiled} else f", pure {goal.pure:g}"
    stretch = "" if goal.stretch is None else f" (stretch {goal.stretch:g})"
    return f"{bound} {goal.compiled:g}{pure}{stretch}"


def best_of(names: Sequence[str]) -> str:
    *most, last = names
    return f"the best of {', '.join(most)} and {last}" if most else last


def spread(ratios: Sequence[float]) -> str:
    """From the worst, which counts, to the best."""
    shown = dict.fromkeys(f"{ratio:.2f}" for ratio in (*ratios[:1], *ratios[-1:]))
    return " to ".join(shown)


def spent(result: Result) -> str:
    """Processor time by process."""
    cases = [case for case in CASES if case.mode != "connect" and case.name in result.measured]
    rows = [["", *(f"{case.name}, {'ms a GB' if case.is_bulk else 'us a request'}" for case in cases)]]
    for name in dict.fromkeys(name for case in cases for name in result.measured[case.name]):
        cells = [cell([processor_time(case, *one) for one in result.took(case, name)]) for case in cases]
        if any(cells):
            rows.append([name, *cells])
    return table(rows) if len(rows) > 1 else ""


def cell(rounds: list[tuple[float, float]]) -> str:
    """The medians of the dialer's and of the listener's."""
    return " + ".join(number(statistics.median(process)) for process in zip(*rounds, strict=True))


def processor_time(case: Case, measured: Measured, took: Took) -> tuple[float, float]:
    """Of the dialer and of the listener: milliseconds a GB, or microseconds a request."""
    count = gigabytes(case, measured, took) / 1e3 if case.is_bulk else requests(measured, took) / 1e6
    return took.dialer.processor_seconds / count, took.listener.processor_seconds / count


def requests(measured: Measured, took: Took) -> float:
    rate: float = measured.figures["requests_per_second"]
    return rate * took.seconds


def gigabytes(case: Case, measured: Measured, took: Took) -> float:
    rate: float = measured.figures[case.figure]
    return rate * took.seconds * 1e6 / GIGABYTE


def faults(result: Result) -> str:
    """Minor page faults of a gigabyte, of both processes together, with the goal."""
    works: dict[str, dict[str, list[float]]] = {}
    for case in CASES:
        if case.is_bulk and case.name in result.measured:
            works[case.name] = {
                name: [
                    (took.dialer + took.listener).minor_faults / gigabytes(case, measured, took)
                    for measured, took in result.took(case, name)
                ]
                for name in result.measured[case.name]
            }
    for direction, pairs in result.programmed.items():
        works[f"the perf program, {direction}"] = {
            dialer: [(one.dialer + one.listener).minor_faults for one in moved]
            for (dialer, listener), moved in pairs.items()
            if dialer == listener
        }
    head = ["minor page faults of 1 GB", *OWN.values(), "the least of others", "goal", ""]
    return table([head, *(faults_of(work, systems) for work, systems in works.items())]) if works else ""


def faults_of(work: str, systems: Mapping[str, Sequence[float]]) -> list[str]:
    """The row of one kind of work: ours from the worst round to the best, and the median of the best other."""
    own = [sorted(systems.get(ours, ()), reverse=True) for ours in OWN]
    figures = [" to ".join(dict.fromkeys(map(number, (*rounds[:1], *rounds[-1:])))) for rounds in own]
    others = [
        (statistics.median(rounds), name) for name, rounds in systems.items() if rounds and name not in own_names()
    ]
    least = "".join(f"{number(count)} ({name})" for count, name in sorted(others)[:1])
    told = verdict([rounds[0] < FAULTS_OF_A_GIGABYTE if rounds else None for rounds in own])
    return [work, *figures, least, f"under {FAULTS_OF_A_GIGABYTE:,}", told]


def own_names() -> set[str]:
    return {*OWN, *OVER_WEBSOCKET.values()}


def programmed(figures: programs.Figures) -> str:
    """The perf programs: rates, what they take, and how ours compares with go's."""
    if not figures:
        return ""
    head = [
        "dialer",
        "listener",
        "direction",
        "MB/s",
        "of go's with itself",
        "ms a GB",
        "minor page faults",
        "goal",
        "",
    ]
    rows = [head]
    for direction, pairs in figures.items():
        for (dialer, listener), moved in pairs.items():
            median = statistics.median(one.mb_per_second for one in moved)
            taken = cell([(one.dialer.processor_seconds * 1e3, one.listener.processor_seconds * 1e3) for one in moved])
            faulted = cell([(one.dialer.minor_faults, one.listener.minor_faults) for one in moved])
            found = programs.ratios(figures, direction, (dialer, listener))
            goal = told = ""
            if dialer == listener != programs.GO and found:
                goal = f"at least {programs.GOAL:g} (stretch {programs.STRETCH:g})"
                told = "reached" if found[0] >= programs.GOAL else "**not reached**"
            rows.append([dialer, listener, direction, number(median), spread(found), taken, faulted, goal, told])
    return table(rows)


def disturbed(result: Result) -> str:
    """What else took the processors."""
    return (
        f"Meanwhile the hypervisor took {result.machine.stolen / result.machine.total:.1%} of the processors (steal); in one "
        f"measurement {most(result, lambda took: took.stolen)}, and other processes {most(result, lambda took: took.others)}."
    )


def most(result: Result, share: Callable[[Took], float]) -> str:
    """The largest share, with its measurement."""
    shares = [
        (share(one.took), f"{name}, {case}, round {number + 1}")
        for case, systems in result.measured.items()
        for name, rounds in systems.items()
        for number, one in enumerate(rounds)
        if one.took is not None
    ]
    largest, where = max(shares, key=lambda found: found[0], default=(0.0, "none was looked at"))
    return f"at most {largest:.1%} ({where})"


def relayed(figures: relays.Figures) -> str:
    """Rates through relays, and how ours compares."""
    if not figures:
        return ""
    units = {case.name: case.unit for case in CASES}
    rows = [["work", "relay", *OWN.values()]]
    for case, builds in figures.items():
        for relay in dict.fromkeys(relay for measured in builds.values() for relay in measured):
            own = [number(value) for value in relays.medians(figures, case, relay)]
            rows.append([f"{case}, {units[case]}", relay, *own])
    compared = [["work", "compared with", *OWN.values(), "goal", ""]]
    for goal in relays.GOALS:
        found = [goal.ratio(ours, figures) for ours in OWN]
        if any(found):
            ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in found]
            verdicts = [None if ratio is None else goal.reached(ratio) for ratio in found]
            compared.append([goal.case, best_of(goal.others), *ratios, f"at least {goal.factor:g}", verdict(verdicts)])
    return f"{table(rows)}\n\n{table(compared)}"


def scaled(result: Result) -> str:
    """The rows of scale.py."""
    if not result.scale:
        return ""
    rows = [["", *OWN.values(), "goal", ""]]
    for name in next(iter(result.scale.values()), {}):
        found = [result.scale[ours][name] if ours in result.scale else None for ours in OWN]
        figures = ["" if row is None else figure(row) for row in found]
        goal = next(row["goal"] for row in found if row is not None)
        rows.append([name, *figures, goal, verdict([None if row is None else row["reached"] for row in found])])
    return table(rows)


def figure(row: Mapping[str, Any]) -> str:
    value = f"{row['value']} {row['unit']}".strip()
    return f"{value} ({row['detail']})" if row["detail"] else value


def verdict(reached: list[bool | None]) -> str:
    """``reached`` is in the order of OWN; None: not measured."""
    measured = {which for which, was_reached in zip(OWN.values(), reached, strict=True) if was_reached is not None}
    which = [which for which, was_reached in zip(OWN.values(), reached, strict=True) if was_reached]
    if not which:
        return "**not reached**"
    return "reached" if len(which) == len(measured) else f"reached if {which[0]}"


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(result: Result) -> None:
    """Writes the report and draws its charts."""
    CHARTS.mkdir(exist_ok=True)
    for index, case in enumerate(CASES):
        draw(case, result.medians_of(case), CHARTS / f"{index + 1}.svg")
    charts = "\n".join(f"![{case.name}](benchmarks/{index + 1}.svg)" for index, case in enumerate(CASES))
    versions = "; ".join(
        ", ".join(f"{package} {version}" for package, version in result.versions[name].items())
        for name in result.versions
        if name not in {COMPILED, *OVER_WEBSOCKET.values()}
    )
    (DOCS / "BENCHMARKS.md").write_text(
        f"""# Benchmarks

Generated by `make bench`. It builds each system in its own environment (four of them need go, cargo, node and a C
compiler), and runs them in turn.

## Method

- Two processes on one machine, one connection over loopback TCP (iroh: QUIC). One serves, the other sends requests; each
  response echoes the body. JSON bodies are decoded and encoded on both sides; raw ones are bytes.
- The libp2p systems speak our request protocol: one stream per request, Noise, Yamux. stronghold-p2p uses the public
  `send_request`, an `async def` handler, and a firewall rule that allows one peer. It is measured twice: as pure Python (the
  default build), and with the hot path compiled from the same sources; and again over WebSocket without TLS (`/ws`).
- {result.rounds} rounds. In each, the systems do the same work one right after the other; a figure is the median of the
  rounds. Machines differ and are noisy, so compare the ratios: each is of two figures of one round, the worst one counts,
  and the best one shows the spread. js-libp2p, py-libp2p and iroh are measured in the first round alone.
- 1,000 peers: each system's own program makes so many peers in one process, all connected before the load begins; the
  listener is as in the other cases, except that it lets any of them in. What the dialling process takes differs between
  systems: the processor time of the listener tells that apart.
- Processor time and page faults are those of the dialer's and of the listener's process, from the end of the warm-up to the
  end: /proc/PID/stat. Steal is that of /proc/stat.
- "The limit" is the rate of bare ChaCha20-Poly1305 frames between two processes in plain Python, without streams,
  handshake or codec ([bench/limit.py](../bench/limit.py)).
- connect: time from the dial to the first response, with a new dialer each time, created beforehand; the median of 20.

Machine: {processor()}, {os.cpu_count()} cores, Linux {platform.release().split("-")[0]},
Python {platform.python_version()}, {limit.default_loop()}.
Versions: {versions}.

## Figures

{absolute(result)}

{charts}

## Ratios

{ratios(result)}

## Processor time, dialer + listener

{spent(result)}

{faults(result)}

{disturbed(result)}

## Perf programs

`stronghold-p2p perf` and go-libp2p's own perf program, each a command: 1 GB in one direction, from before the dial to the
last byte. Goals are held by pairs of ours.

{programmed(result.programmed)}

## Through a relay

Two peers of ours, and between them our relay of the same build, a go or a rust one, each without limits of a circuit and
else as it comes. Rates are medians, ratios those of the worst round.

{relayed(result.relayed)}

## Memory, latency, start

{scaled(result)}

{NOTES.read_text().strip()}
"""
    )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def draw(case: Case, medians: Mapping[str, float], path: Path) -> None:
    """A bar for each system, the best above; the same bytes for the same figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "stronghold-p2p", "svg.fonttype": "none", "font.size": 10})
    ordered = sorted(medians.items(), key=lambda item: item[1], reverse=not case.less_is_better)
    names = [name for name, _ in ordered][::-1]
    figure = Figure(figsize=(7, 0.6 + 0.32 * len(names)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    own = own_names()
    colors = ["#1f6feb" if name in own else "#d0d7de" if name == LIMIT else "#8c959f" for name in names]
    bars = axes.barh(names, [medians[name] for name in names], color=colors)
    axes.bar_label(bars, [number(medians[name]) for name in names], padding=3)
    axes.set_title(f"{case.name}, {case.unit}{' (less is better)' if case.less_is_better else ''}", loc="left")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.xaxis.set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
