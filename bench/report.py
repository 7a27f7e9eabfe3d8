"""Writes docs/BENCHMARKS.md and its charts: the figures, and how they compare with the goals."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import limit, relays
from bench.cases import CASES, COMPILED, GOALS, LIMIT, OURS, OVER_WEBSOCKET, Case

__all__ = ["Result", "number", "text", "verdict", "write"]

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
    medians: Mapping[str, Mapping[str, float]]
    """By case and by system."""
    scale: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """By build of ours: the rows of scale.py by name."""
    versions: Mapping[str, Mapping[str, str]]
    relayed: relays.Figures


def text(result: Result) -> str:
    """The tables, as Markdown."""
    return "\n\n".join((absolute(result), ratios(result), relayed(result.relayed), scaled(result)))


def absolute(result: Result) -> str:
    """Figures by system and case."""
    cases = [case for case in CASES if case.name in result.medians]
    names = dict.fromkeys(name for case in cases for name in result.medians[case.name])
    ordered = sorted(names, key=lambda name: (name not in OWN, name == LIMIT))
    head = ["", *(f"{case.name}, {case.unit}" for case in cases)]
    return table(
        [head, *([name, *(number(result.medians[case.name].get(name)) for case in cases)] for name in ordered)]
    )


def ratios(result: Result) -> str:
    """Ratios of our figures to those of others, with the goals."""
    rows = [["work", "compared with", *OWN.values(), "goal", ""]]
    for goal in GOALS:
        found = [goal.ratio(ours, result.medians.get(goal.case, {})) for ours in OWN]
        if not any(found):
            continue
        wanted = (
            f"{'at most' if goal.less_is_better else 'at least'} {goal.factor:g}{' (stretch)' if goal.stretch else ''}"
        )
        work, others = f"{goal.case}, /ws", "the same over TCP"
        if goal.others:
            work, others = goal.case, " and ".join(goal.others)
        if len(goal.others) > 1:
            others = f"the best of {others}"
        figures = ["" if ratio is None else f"{ratio:.2f}" for ratio in found]
        verdicts = [None if ratio is None else goal.reached(ratio) for ratio in found]
        rows.append([work, others, *figures, wanted, verdict(verdicts)])
    return table(rows)


def relayed(figures: relays.Figures) -> str:
    """Rates through relays, and how ours compares."""
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
            others = " and ".join(goal.others)
            ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in found]
            verdicts = [None if ratio is None else goal.reached(ratio) for ratio in found]
            name = f"the best of {others}" if len(goal.others) > 1 else others
            compared.append([goal.case, name, *ratios, f"at least {goal.factor:g}", verdict(verdicts)])
    return f"{table(rows)}\n\n{table(compared)}"


def scaled(result: Result) -> str:
    """The rows of scale.py."""
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
        draw(case, result.medians[case.name], CHARTS / f"{index + 1}.svg")
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
  rounds. Machines differ and are noisy, so compare the ratios.
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

## Through a relay

Two peers of ours, and between them our relay of the same build, a go or a rust one, each without limits of a circuit and
else as it comes. Rates are medians, ratios those of the worst round.

{relayed(result.relayed)}

## Many peers, memory, start

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
    own = {*OWN, *OVER_WEBSOCKET.values()}
    colors = ["#1f6feb" if name in own else "#d0d7de" if name == LIMIT else "#8c959f" for name in names]
    bars = axes.barh(names, [medians[name] for name in names], color=colors)
    axes.bar_label(bars, [number(medians[name]) for name in names], padding=3)
    axes.set_title(f"{case.name}, {case.unit}{' (less is better)' if case.less_is_better else ''}", loc="left")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.xaxis.set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
