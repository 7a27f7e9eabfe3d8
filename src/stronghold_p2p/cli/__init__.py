"""The command line, ``stronghold-p2p``: a thin layer over the library. It needs the extra ``[cli]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import descriptors, memory
from .commands import overview

__all__ = ["main", "run"]

INTERRUPTED = 130
"""By Ctrl-C: 128 and the number of SIGINT, as shells have it."""


def main() -> None:
    """Run the command that the process's arguments name, and exit with its status."""
    descriptors.open_missing()  # before anything else opens a file
    memory.keep_private()  # before there is a key in it
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # while it was imported
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit(
            "stronghold-p2p: the command line needs more packages: run pip install '.[cli]' in a clone of the repository"
        )
    sys.exit(status if descriptors.flush() else status or 1)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    if (text := overview(arguments)) is not None:
        return _show(text)
    from .app import run_command  # with typer, and the library: help comes without either

    return run_command(arguments)


def _show(text: str) -> int:
    try:
        print(text, flush=True)
    except OSError as error:
        from . import output

        output.error(output.OutputFailed("stdout", error))
        return 1
    return 0
