"""A program: a router that has the system forward TCP ports as it is asked to. Prints the mapped ports when they change.

router.py INNER HOST OUTER: its address towards a host, that host, and its address towards everybody else.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from support.router import Router

TABLE = """
table ip mapped
delete table ip mapped
table ip mapped {{
    chain in {{
        type nat hook prerouting priority dstnat
        {rules}
    }}
}}
"""
"""For nft, in place of the one before."""

RULE = "ip daddr {outer} tcp dport {external} dnat to {host}:{internal}\n"


class Forwarder(Router):
    """Forwards the mapped ports."""

    host: str

    def map(self, internal: int, external: int, lifetime: int, nonce: bytes) -> tuple[int, int]:
        before = set(self.mappings)
        granted = super().map(internal, external, lifetime, nonce)
        if set(self.mappings) != before:  # not asked again
            self.forward()  # before the answer says so
            print(json.dumps({"event": "mapped", "ports": sorted(self.mappings)}), flush=True)
        return granted

    def forward(self) -> None:
        rules = [
            RULE.format(outer=self.external, external=external, host=self.host, internal=internal)
            for internal, (external, _, _) in self.mappings.items()
        ]
        subprocess.run(["nft", "-f", "-"], input=TABLE.format(rules="".join(rules)), text=True, check=True)


async def main(inner: str, host: str, outer: str) -> None:
    router = await Forwarder.open(inner, 5351)
    assert isinstance(router, Forwarder)
    router.host, router.external = host, IPv4Address(outer)
    print('"ready"', flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
