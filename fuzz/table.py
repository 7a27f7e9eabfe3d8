"""All targets, by name."""

from __future__ import annotations

from fuzz import files, machines, messages, peers, pipes
from fuzz.target import Target

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (*machines.TARGETS, *pipes.TARGETS, *messages.TARGETS, *files.TARGETS, *peers.TARGETS)
}
