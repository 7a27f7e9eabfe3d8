"""Forks itself for each command that tests start: the command line, and all that it imports, is imported once.

``commands.py`` starts it as a program, and has it until its own end. Each message on the socket that is the program's argument
brings the descriptors of a command. The first of them is a socket of that command alone: a line of it is the command's
``Start``; what is written to it, a line each, is its process id, and in the end the status that it was waited for with.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
import termios
from io import TextIOWrapper
from typing import Final, NamedTuple, cast

from stronghold_p2p.cli import app, commands, main

__all__ = ["Start"]

DESCRIPTORS: Final = 4
"""Of a command: its own socket, stdin, stdout and stderr."""

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

    def tell_ends(*_: object) -> None:
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            own = running.pop(pid)
            tell(own, status)
            os.close(own)

    signal.signal(signal.SIGCHLD, tell_ends)
    while descriptors := socket.recv_fds(requests, 1, DESCRIPTORS)[1]:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # it may end before it is known
        own, *streams = descriptors
        if (pid := os.fork()) == 0:
            requests.detach()
            become(own, streams)
            main()
        running[pid] = own
        tell(own, pid)
        for stream in streams:
            os.close(stream)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def tell(own: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(own, b"%d\n" % number)


def become(own: int, streams: list[int]) -> None:
    """Makes a process that was forked what one that was started is."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    with open(own) as lines:
        start = Start(*json.loads(lines.readline()))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(len(streams), os.sysconf("SC_OPEN_MAX"))  # those of the server, and of others
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
