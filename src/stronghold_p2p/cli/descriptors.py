"""File descriptors: how many there may be; and 0, 1 and 2, which a parent may have closed, or led to where nothing can be
written."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from typing import Final

__all__ = ["flush", "open_missing", "raise_limit"]

ENOUGH: Final = 16_384
"""Descriptors for as many connections as a peer may have by default."""


def open_missing() -> None:
    """Open what is closed on /dev/null, in this process and those that it starts.

    Without it the next file or socket takes the number, and is taken for stdin, stdout or stderr: libuv aborts when it
    is to close one of those.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  it is there to the end


def raise_limit() -> None:
    """As far as the system allows without asking, and there is use for it: the usual 1,024 are for programs that use
    select(), and would be a limit of connections here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def flush() -> bool:
    """Whether what was printed has left. What has not is given up, or Python would fail on it once more at its end."""
    left = True
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            left = left and stream is sys.stderr  # what the log loses is no failure
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
            stream.flush()
    return left
