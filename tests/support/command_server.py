"""Forks itself for each command that tests start: the command line, and all that it imports, is imported once.

``commands.py`` starts it as a program, and has it until its own end. Each message on the socket that is the program's argument
brings the descriptors of a command. The first of them is a socket of that command alone: a line of it is the command's
``Start``; what is written to it, a line each, is ``STARTED``, its process id, and in the end the status that it was waited for
with.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import termios
from io import TextIOWrapper
from typing import Final, NamedTuple, cast

from stronghold_p2p.cli import app, commands, main

__all__ = ["STARTED", "Start"]

DESCRIPTORS: Final = 4
"""Of a command: its own socket, stdin, stdout and stderr."""

STARTED: Final = 0
"""A command that ends before has another status."""

PR_SET_PDEATHSIG: Final = 1


class Start(NamedTuple):
    """What a process gets from whoever starts it."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    controlled: bool
    """Whether stdin is a terminal that is to control it."""
    namespaces: int | None
    """The process whose user and network namespaces it enters."""


def serve(requests: socket.socket) -> None:
    """Returns when nobody can ask any more; in a command, raises SystemExit."""
    running: dict[int, int] = {}
    asked = requests.fileno()
    ends, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    while True:
        ready, _, _ = select.select([asked, ends], [], [])
        if ends in ready:
            os.read(ends, 4096)
            tell_ends(running)
        if asked in ready:
            _, descriptors, _, _ = socket.recv_fds(requests, 1, DESCRIPTORS)
            if not descriptors:
                return
            own, *streams = descriptors
            if (pid := os.fork()) == 0:
                requests.detach()
                become(own, streams)
                main()
            running[pid] = own
            for stream in streams:
                os.close(stream)


def tell_ends(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        own = running.pop(pid)
        tell(own, status)
        os.close(own)


def tell(own: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(own, b"%d\n" % number)


def become(own: int, streams: list[int]) -> None:
    """Makes a process that was forked what one that was started is."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(own, closefd=False) as lines:
        start = Start(*json.loads(lines.readline()))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.setsid()
    if start.controlled:
        fcntl.ioctl(0, termios.TIOCSCTTY)
    if start.namespaces is not None:
        enter(start.namespaces)
    if sys.platform == "linux":  # it ends with the tests, whatever ends those
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(start.folder)
    os.environ.clear()
    os.environ.update(start.environment)
    cast("TextIOWrapper", sys.stdout).reconfigure(line_buffering=os.isatty(1))
    sys.argv[1:] = start.arguments
    tell(own, STARTED)
    tell(own, os.getpid())
    os.closerange(len(streams), os.sysconf("SC_OPEN_MAX"))  # the server's, and those of others


def enter(namespaces: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for kind in "user", "net":
        namespace = os.open(f"/proc/{namespaces}/ns/{kind}", os.O_RDONLY)
        if libc.setns(namespace, 0) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the {kind} namespace of process {namespaces}")
        os.close(namespace)


if __name__ == "__main__":
    for command in commands.COMMANDS.values():
        importlib.import_module(command.module, app.__package__)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        serve(requests)
