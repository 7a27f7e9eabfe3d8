"""The attacker, in a process of its own.

    python -m attack.attacker NAME

Reads one line, a :class:`Target` as JSON, answers with one, and attacks until its stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

from attack.remote import Target
from attack.table import ATTACKS


async def run(name: str, target: Target) -> None:
    attacking = asyncio.ensure_future(ATTACKS[name].drive(target))
    stopped = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([attacking, stopped], return_when=asyncio.FIRST_COMPLETED)
    if attacking.done():
        attacking.result()  # raises what went wrong: an attack has no end of its own


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # thousands of connections
    if line := sys.stdin.readline():
        print(json.dumps("ready"), flush=True)
        asyncio.run(run(sys.argv[1], Target(*json.loads(line))))
