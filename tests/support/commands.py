"""Commands in processes of their own, each forked in a moment: to start Python anew takes half a second of a processor.

What is told to Python itself, such as ``PYTHONIOENCODING`` or closed descriptors, needs a start of its own.
"""

from __future__ import annotations

import functools
import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from .command_server import STARTED, Start

__all__ = ["CommandProcess", "StartedAnew"]

SERVER: Final = Path(__file__).with_name("command_server.py")


class CommandProcess(subprocess.Popen[Any]):
    """A command of the command line, forked, in a session of its own."""

    def __init__(
        self,
        *arguments: str,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
        controlled: bool = False,
        namespaces: int | None = None,
    ) -> None:
        """``controlled`` by the terminal that is its stdin; in the ``namespaces`` of that process."""
        self._start = Start(list(arguments), dict(os.environ), os.getcwd(), controlled, namespaces)
        super().__init__(arguments, stdin=stdin, stdout=stdout, stderr=stderr, text=text)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._own], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(self._told())
            self._own.close()
        return self.returncode

    def _execute_child(self, *given: Any) -> None:
        """Popen's own would start a process, with the three pairs of ``pipes``."""
        pipes = given[10:16]
        self._own, theirs = socket.socketpair()
        with theirs:
            streams = [given if given != -1 else number for number, given in enumerate((pipes[0], pipes[3], pipes[5]))]
            self._own.sendall(json.dumps(self._start).encode() + b"\n")
            socket.send_fds(_server(), [b"\0"], [theirs.fileno(), *streams])
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        assert self._told() == STARTED, "what it is to have could not be had: stderr says why"
        self.pid = self._told()

    def _told(self) -> int:
        """A line of the server's."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self._own.recv(1)
            assert byte, "the server of commands has ended"
            line += byte
        return int(line)


class StartedAnew(subprocess.Popen[Any]):
    """A command of the command line by a Python of its own, in a session of its own, with any options of Popen."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        super().__init__([sys.executable, "-m", "stronghold_p2p", *arguments], start_new_session=True, **options)


@functools.cache
def _server() -> socket.socket:
    """It ends when nobody has this end any more."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", str(SERVER), str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
    process.returncode = 0  # nobody waits for it: it ends when this process does
    return ours
