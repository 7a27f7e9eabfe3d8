"""One world in one process."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from stronghold_p2p.transport import tcp

from .loop import Loop, replace_system
from .sockets import Deadlock
from .story import Story
from .tls import replace_contexts
from .world import world

__all__ = ["prepare", "run"]

LATE: Final = (
    "discovery.mdns",
    "firewall.policy_file.reading",
    "protocols.relay.server",
    "store.address_memory",
    "store.firewall_memory",
    "transport.websocket_pipe",
)
"""What the library imports when it is first needed: once for all worlds takes less."""


def prepare() -> None:
    """What every world needs, once in a process."""
    replace_system()
    replace_contexts()
    for module in LATE:
        import_module(f"stronghold_p2p.{module}")
    gc.collect()
    gc.freeze()
    gc.disable()  # what is collected may do something, which is then done by whoever computes at that moment


def run(seed: int, *, tells: bool) -> dict[str, Any]:
    """What has become of the world of that number: complaints, counts, and a digest of all that has happened."""
    world.begin(seed)
    digest = hashlib.sha256()

    def tell(line: str) -> None:
        line = f"{world.now:.6f} {line}"
        digest.update(line.encode())
        if tells:
            print(line, file=sys.stderr)

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        loop = Loop()
        story = Story(Path(folder), tell=tell)
        complaints = story.ledger.complaints
        if not story.network.gives_up:
            vars(tcp)["USER_TIMEOUT"] = None

        def complain(_: object, context: dict[str, Any]) -> None:
            error = context.get("exception")
            trace = "".join(traceback.format_exception(error)) if error is not None else ""
            story.ledger.complain(f"the event loop complains: {context['message']}\n{trace}")

        loop.set_exception_handler(complain)
        logging.getLogger().addHandler(_Log(story))
        try:
            loop.run_until_complete(story.live())
        except Deadlock as error:
            story.ledger.complain(str(error))
    digest.update(str(world.chance.random()).encode())  # which the network has had its part of
    return {
        "seed": seed,
        "complaints": complaints,
        "counts": story.ledger.counts,
        "seconds": world.now,
        "digest": digest.hexdigest()[:16],
    }


class _Log(logging.Handler):
    """Takes what is logged as an error for a complaint, but for what handlers raise as they are asked to."""

    def __init__(self, story: Story) -> None:
        super().__init__(logging.WARNING)
        self._story = story

    def emit(self, record: logging.LogRecord) -> None:
        if "as it was asked to" in logging.Formatter().format(record):
            return
        self._story.ledger.counts[f"logged: {record.msg}"] += 1
        if record.levelno >= logging.ERROR:
            self._story.ledger.complain(f"logged: {self.format(record)}")
