"""Faults, put into a copy of the library one by one: that a world finds each shows that what must hold is looked at."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

LIBRARY: Final = Path(__file__).parent.parent / "src" / "stronghold_p2p"


class Mutation(NamedTuple):
    """A fault of the library."""

    what: str
    file: str
    code: str
    """Which the file has once."""
    instead: str


MUTATIONS: Final = (
    Mutation(
        "a request is sent again though it may have arrived",
        "requests/requester.py",
        "            if stream.untouched:\n",
        "            if True:\n",
    ),
    Mutation(
        "a request has no deadline",
        "requests/requester.py",
        "        stream.set_deadline(deadline)\n",
        "        pass\n",
    ),
    Mutation(
        "a handler is called twice",
        "requests/responder.py",
        "            answer = self._handler(Request(body, inbound))\n",
        "            self._handler(Request(body, inbound))\n            answer = self._handler(Request(body, inbound))\n",
    ),
    Mutation(
        "what somebody rejects passes",
        "requests/responder.py",
        "        if await permitted:\n",
        "        if await permitted or True:\n",
    ),
    Mutation(
        "what a rule rejects passes",
        "requests/responder.py",
        "        elif permitted is False:\n            inbound.reject()\n",
        "        elif permitted is False:\n            self._let_in(inbound, body)\n",
    ),
    Mutation(
        "a let-in request that its requester leaves never ends",
        "requests/inbound.py",
        '        self._end("left")\n',
        "        pass\n",
    ),
    Mutation(
        "a ban closes no connection",
        "wiring.py",
        "        if banned and self.swarm is not None:\n",
        "        if False:\n",
    ),
    Mutation(
        "who is banned can connect",
        "swarm/swarm.py",
        "        self._check_admission(peer, pipe.remote_address)  # which may have changed since the pipe was made\n",
        "",
    ),
    Mutation(
        "requests of our own are not looked at",
        "requests/requester.py",
        "        if permitted is not True:\n",
        "        if False:\n",
    ),
    Mutation(
        "a changed policy is not loaded",
        "firewall/policy_watch.py",
        "        if settled and stamp != self._loaded:\n",
        "        if False:\n",
    ),
    Mutation(
        "a connection that has ended is still used",
        "swarm/swarm.py",
        "        connections.remove(connection)\n",
        "        return\n",
    ),
    Mutation(
        "the memory of a connection is never given back",
        "swarm/swarm.py",
        "        self.memory.close(connection.budget)\n",
        "",
    ),
    Mutation(
        "a dead path is never given up",
        "transport/keep_alive.py",
        "        if self._doubted:\n",
        "        if False:\n",
    ),
    Mutation(
        "the deadline of an upgrade stays", "swarm/swarm.py", "        self.deadlines.remove(tick, upgrade)\n", ""
    ),
    Mutation(
        "a listening socket is not closed",
        "transport/accepting.py",
        "            listening.close()\n        self.sockets = ()\n",
        "        self.sockets = ()\n",
    ),
    Mutation(
        "the end of a pipe is not passed on",
        "transport/tcp.py",
        "            self._turns.run(self.receiver.pipe_closed, exc)\n",
        "            pass\n",
    ),
    Mutation(
        "a window is never returned",
        "transport/output.py",
        "        self._session.credit(muxed, size, precise_time())\n",
        "        pass\n",
    ),
    Mutation(
        "hole punching goes on in a closed peer",
        "wiring.py",
        "            self._hole_punching.close,\n",
        "",
    ),
    Mutation(
        "a lost reservation is not made again",
        "protocols/relay/reservations.py",
        "            if connection.closing:\n",
        "            if connection.closing:\n                return\n",
    ),
    Mutation(
        "a relay that has moved is not found",
        "protocols/relay/reservations.py",
        "            address = None  # from now on wherever it is known to be: it may move\n",
        "",
    ),
    Mutation(
        "a change of the interfaces is not noticed",
        "transport/interfaces.py",
        "            self.changed(before)\n",
        "            pass\n",
    ),
    Mutation(
        "a circuit is forwarded one way only",
        "protocols/relay/circuit.py",
        "        one.other, other.other = other, one\n",
        "        one.other, other.other = other, other\n",
    ),
    Mutation(
        "a failed dial is told to nobody",
        "swarm/keeper.py",
        "        self._dial_next()\n\n    def _tell(",
        "\n    def _tell(",
    ),
    Mutation(
        "an approval lets in all that asks next",
        "requests/inbound.py",
        "        self._host.completed(self)\n",
        "        self._host.completed(self)\n        self.state is WAITING and self.admit()\n",
    ),
    Mutation(
        "closing ends no running handlers",
        "transport/connection.py",
        "        self.tasks.end(self._all_ended)\n",
        "        self._all_ended()\n",
    ),
    Mutation(
        "an outbound request that is cancelled stays",
        "requests/requester.py",
        "        except asyncio.CancelledError:\n            outbound.abandon()\n",
        "        except asyncio.CancelledError:\n",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simulation.mutations", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="worlds for each (default: 100)")
    parser.add_argument("only", nargs="*", help="those whose description has this text")
    arguments = parser.parse_args()
    chosen = [one for one in MUTATIONS if not arguments.only or any(text in one.what for text in arguments.only)]
    missed = 0
    for mutation in chosen:
        found = _find(mutation, arguments.seeds)
        missed += found is None
        print(f"{mutation.what}: {found or 'NOT FOUND'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} found")
    return 1 if missed else 0


def _find(mutation: Mutation, seeds: int) -> str | None:
    """The first world that has complained, and of what; None if none has."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(LIBRARY, Path(folder) / LIBRARY.name, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / mutation.file
        text = file.read_text()
        assert text.count(mutation.code) == 1, f"{mutation.file} has not this once: {mutation.code!r}"
        file.write_text(text.replace(mutation.code, mutation.instead))
        command = [sys.executable, "-m", "simulation", "--seeds", str(seeds), "--stop-after", "1"]
        environment = {**os.environ, "PYTHONPATH": folder}
        ran = subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True, cwd=LIBRARY.parent.parent
        )
    if ran.returncode == 0:
        return None
    lines = ran.stdout.splitlines() or ran.stderr.splitlines()[-1:]
    return re.sub(r"12D3KooW\w+", "...", "; ".join(line.strip() for line in lines[:2]))[:200]


if __name__ == "__main__":
    sys.exit(main())
