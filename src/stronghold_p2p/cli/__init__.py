"""The command line, ``stronghold-p2p``: a thin layer over the library. It needs the extra ``[cli]``."""

from __future__ import annotations

import sys

from . import descriptors

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments name, and exit with its status."""
    descriptors.open_missing()  # before anything else opens a file
    try:
        from .app import run
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit(
            "stronghold-p2p: the command line needs more packages: run pip install '.[cli]' in a clone of the repository"
        )
    except KeyboardInterrupt:
        sys.exit(130)
    status = run(sys.argv[1:])
    sys.exit(status if descriptors.flush() else status or 1)
