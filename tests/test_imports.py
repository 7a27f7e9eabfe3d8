"""What is imported when: the library with the first name that is used, and of commands only the one that runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import stronghold_p2p

WAIT = 30
"""Seconds after which a process has failed; none waits for them."""

LATER = {
    "stronghold_p2p.discovery",
    "stronghold_p2p.firewall.policy_file",
    "stronghold_p2p.port_mapping",
    "stronghold_p2p.protocols.relay.server",
    "stronghold_p2p.store.database",
    "dns",
    "importlib.metadata",
    "sqlite3",
    "tomllib",
    "uvloop",
    "websockets",
    "zeroconf",
}
"""What only those need who use it: a state file, a policy file, names of the DNS, WebSocket, the local network, a router,
a relay of their own."""


def loaded(code: str) -> set[str]:
    """The modules of a process that has run ``code``."""
    report = "import json, sys; print(); print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    ran = subprocess.run(command, capture_output=True, check=True, text=True, timeout=WAIT)
    return set(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [None, ["--help"], ["--version"]])
def test_neither_the_package_nor_the_help_of_commands_loads_the_library(arguments: list[str] | None) -> None:
    code = "import stronghold_p2p" if arguments is None else f"from stronghold_p2p.cli import run; run({arguments})"
    modules = loaded(code)
    assert {module for module in modules if module.startswith("stronghold_p2p.")} <= {
        "stronghold_p2p.cli",
        "stronghold_p2p.cli.commands",
        "stronghold_p2p.cli.descriptors",
        "stronghold_p2p.cli.memory",
        "stronghold_p2p.cli.version",
        "stronghold_p2p.version",
    }
    assert not modules & {
        "asyncio",
        "cryptography",
        "dataclasses",
        "google.protobuf",
        "logging",
        "msgspec",
        "typer",
        *LATER,
    }


def test_the_library_leaves_out_what_only_some_use() -> None:
    modules = loaded("from stronghold_p2p import StrongholdP2p; StrongholdP2p()")
    assert "stronghold_p2p.peer" in modules
    assert not modules & {
        "stronghold_p2p.cli",
        "stronghold_p2p.diagnosis",
        "difflib",
        "pathlib",
        "rich",
        "typer",
        *LATER,
    }


def test_a_first_request_waits_for_no_import() -> None:
    """It would halt the event loop."""
    program = """
import asyncio, sys
from stronghold_p2p import FirewallRules, StrongholdP2p

async def main():
    rules = FirewallRules.allow_all()
    async with StrongholdP2p(firewall=rules) as bob, StrongholdP2p(firewall=rules) as alice:
        bob.on_request(lambda request: request.body)
        address = await bob.listen()
        before = set(sys.modules)
        await alice.send_request(address, {"a": 1})
        assert not sys.modules.keys() - before, sys.modules.keys() - before

asyncio.run(main())
"""
    assert "stronghold_p2p.wire.noise" in loaded(program)


@pytest.mark.parametrize(
    ("command", "left_out"),
    [
        ("request", {"stronghold_p2p.cli.listen", *LATER}),
        ("key", {"stronghold_p2p.peer", *LATER}),
        ("firewall", {"stronghold_p2p.peer", "uvloop"}),
    ],
)
def test_a_command_leaves_out_the_others(command: str, left_out: set[str]) -> None:
    modules = loaded(f"from stronghold_p2p.cli import run; run(['{command}', '--help'])")
    assert f"stronghold_p2p.cli.{command}" in modules
    assert not modules & {"stronghold_p2p.cli.demo", "stronghold_p2p.diagnosis", "rich", *left_out}


def test_the_public_names_are_there_before_the_first_is_used() -> None:
    listed = "set(dir(stronghold_p2p)) >= set(stronghold_p2p.__all__)"
    modules = loaded(f"import stronghold_p2p; assert {listed}; from stronghold_p2p import *; Keypair.generate()")
    assert "stronghold_p2p.peer" in modules


def test_a_name_that_is_not_there() -> None:
    for name in ("Nothing", "nothing"):
        with pytest.raises(AttributeError, match=f"module 'stronghold_p2p' has no attribute '{name}'"):
            getattr(stronghold_p2p, name)
