"""What commands there are: a table, so that only the one that is run is imported, and the help of all needs none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = ["COMMANDS", "Command", "overview"]


def _never(arguments: dict[str, Any]) -> bool:
    return False


def _always(arguments: dict[str, Any]) -> bool:
    return True


class Command(NamedTuple):
    """A command, or a group of them."""

    summary: str
    """As the first line of its own help."""
    module: str
    """Has a function, or a group, of the command's name."""
    is_service: Callable[[dict[str, Any]], bool] = _never
    """Whether it runs until it is stopped, with these arguments. SIGTERM is its proper end then."""


COMMANDS = {
    "demo": Command("Demonstrate the library in a few seconds.", ".demo"),
    "listen": Command("Run a peer that answers requests.", ".listen", _always),
    "approve": Command("Answer the questions of other peers' firewalls, until Ctrl-C or SIGTERM.", ".approve", _always),
    "relay": Command("Run a relay, which forwards between peers that cannot dial each other.", ".relay", _always),
    "request": Command("Send one request and print the response.", ".request"),
    "ping": Command("Measure round-trip times to a peer.", ".request"),
    "discover": Command("Find peers on the local network.", ".discover"),
    "doctor": Command("Find out why peers can or cannot be reached.", ".doctor"),
    "perf": Command(
        "Measure throughput with libp2p's perf protocol, /perf/1.0.0.",
        ".perf",
        lambda arguments: bool(arguments["run_server"]),
    ),
    "bench": Command("Measure the speed of requests.", ".bench"),
    "key": Command("Make and show key files.", ".key"),
    "firewall": Command("Show and edit the rules, bans and names in a state file.", ".firewall"),
    "audit": Command("Check the files of --audit.", ".audit.command"),
}


def overview(arguments: Sequence[str]) -> str | None:
    """What ``--help`` and ``--version`` print in the place of a command; None: there is one to run."""
    match arguments:
        case ["--help", *_]:
            return _HELP + "\n".join(f"  {name:<8}  {command.summary}" for name, command in COMMANDS.items())
        case ["--version", *_]:
            from .version import version  # looks for the library without importing it

            return version()
        case _:
            return None


_HELP = """\
Usage: stronghold-p2p [OPTIONS] COMMAND [ARGS]...

  End-to-end encrypted requests between peers, on the libp2p protocols, behind
  a firewall.

Options:
  --version  Show the version and exit.
  --help     Show this message and exit.

Commands:
"""
