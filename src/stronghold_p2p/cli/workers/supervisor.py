"""The supervisor of ``listen --workers``: starts the workers, replaces those that end, and holds the terminal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import typer

from ...ending import together
from ...identity import Keypair
from .. import output
from ..ask.asker import Asker
from ..process import this_program
from ..stdin import Lines
from .channel import Asked, Channel, Ended, Given, HangUp, Here, Leave, Listening, Printed, Setup, ToWorker
from .questions import Questions, WorkersPerson, WorkersProgram, WorkersQuestions, ban_there

__all__ = ["WorkerFailed", "supervise"]

logger = logging.getLogger("stronghold_p2p")

FIRST_PAUSE: Final = 0.1
"""Seconds until a worker that has ended is replaced. Twice as long each time that its successor ends, too: what ends them
may be a remote, or a file that is broken, and a start takes a second of a core."""

LAST_PAUSE: Final = 60.0

STEADY: Final = 60.0
"""Seconds after which a worker has not failed at its start, and the next one has the first pause again."""

ENDING: Final = 30.0
"""Seconds for a worker to end in order: running requests have 5, and so have commands and the audit behind them."""

LOOK: Final = 10.0
"""Seconds between two looks at whether a worker reacts."""

LOOKS: Final = 6
"""Looks in a row at which it had said nothing since the one before, after which it hangs: far longer than a turn of its loop.
Looks and not a time, since we may be stopped, too."""

OF_ALL: Final = frozenset({"addresses", "policy", "PolicyError"})
"""Events and errors that come from all workers, of which those of the first are told."""


class WorkerFailed(Exception):
    """A worker could not be started, and has not said why."""


async def supervise(
    arguments: Sequence[str],
    keypair: Keypair,
    size: int,
    *,
    state: Path | None,
    asks: bool,
    quiet: float | None,
    hangs_up: bool,
) -> None:
    """Runs so many workers until it is cancelled. ``arguments`` are those of ``listen``, as they were given. ``asks``: whoever is
    at stdin answers their questions; ``quiet`` as for :class:`Person`. ``hangs_up``: SIGHUP is for them.

    Raises:
        Exit: one cannot start, and has told why.
        WorkerFailed: the same, and it has not.
    """
    with TemporaryDirectory(prefix="stronghold-p2p-") as folder:
        if state is None and asks:
            state = Path(folder, "state")  # what is answered in one worker holds in all
        questions = Questions(quiet)
        crew = _Crew(arguments, keypair, state, questions, asks=asks)
        async with together() as tasks:
            questions.start = tasks.create_task
            if asks:
                tasks.create_task(_asker(questions, quiet).run())
            loop = asyncio.get_running_loop()
            if hangs_up:
                loop.add_signal_handler(signal.SIGHUP, crew.send, HangUp())
            else:  # the folder is to be removed
                loop.add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)
            await crew.run(size, tasks)


class _Crew:
    """All workers, and what they have in common."""

    def __init__(
        self, arguments: Sequence[str], keypair: Keypair, state: Path | None, questions: Questions, *, asks: bool
    ) -> None:
        self._arguments = arguments
        self._key = keypair.to_protobuf()
        self._state = state
        self.questions: Final = questions
        self._asks = asks
        self._addresses: list[str] = []
        """Where the first one listens."""
        self._early: list[Printed] | None = []
        """What workers have printed before all listen; None: they do."""
        self._channels: set[Channel] = set()
        questions.leave = lambda: self.send(Leave())

    async def run(self, size: int, tasks: asyncio.TaskGroup) -> None:
        """The first one chooses the ports that were left open, and tells if something is wrong; then come the others."""
        workers = [_Worker(number, self) for number in range(1, size + 1)]
        tasks.create_task(workers[0].run())
        self._addresses = await workers[0].listening
        for worker in workers[1:]:
            tasks.create_task(worker.run())
        for worker in workers:
            await worker.listening
        early, self._early = self._early or [], None
        for printed in early:
            _print(printed)
        await output.shown()
        output.release()  # a script may have wanted the address alone

    def send(self, message: ToWorker) -> None:
        """To all."""
        for channel in self._channels:
            channel.send(message)

    def print(self, printed: Printed, *, first: bool) -> None:
        """Prints what a worker has told, unless the first one tells the same, or has told it before."""
        event = None if printed.record is None else printed.record.get("event", printed.record.get("error"))
        of_start = event is None or event == "listening"
        if not first and (of_start or event in OF_ALL):
            return
        if self._early is not None:
            self._early.append(printed)
        elif not of_start:
            _print(printed)

    @asynccontextmanager
    async def started(self, number: int) -> AsyncIterator[tuple[Process, Channel]]:
        """A new process for the worker, which ends in order with the context."""
        ours, theirs = socket.socketpair()
        with theirs:
            channel = await Channel.over(ours)
            process = await asyncio.create_subprocess_exec(
                *(*this_program(), "listen", "--worker", str(theirs.fileno())),
                *self._arguments,
                stdin=DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # out of the reach of the terminal: Ctrl-C is ours to hand on
            )
        channel.send(
            Setup(number, self._key, self._addresses, None if self._state is None else os.fsencode(self._state))
        )
        if self._asks and not self.questions.has_answerer:
            channel.send(Leave())
        self._channels.add(channel)
        try:
            yield process, channel
        finally:
            self._channels.discard(channel)
            try:
                with suppress(TimeoutError):  # which would take the place of a cancellation
                    async with asyncio.timeout(ENDING):
                        await channel.close()
                        await process.wait()
            finally:
                with suppress(ProcessLookupError):
                    process.kill()  # it does not react, or we were told twice to end


class _Worker:
    """One place among the workers."""

    def __init__(self, number: int, crew: _Crew) -> None:
        self._number = number
        self._crew = crew
        self._is_first = number == 1
        self.listening: Final[asyncio.Future[list[str]]] = asyncio.get_running_loop().create_future()
        """Where the first process of this place listens."""
        self._reacts = False
        """It has said something since the last look."""

    async def run(self) -> None:
        """Keeps a process running, for ever.

        Raises:
            Exit, WorkerFailed: the first one did not start.
        """
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            began = loop.time()
            try:
                status = await self._live()
            except OSError as error:
                if not self.listening.done():
                    raise
                end = f"could not be started: {error}"
            else:
                end = f"has ended by signal {-status}" if status < 0 else f"has ended with status {status}"
                if not self.listening.done():
                    raise typer.Exit(status) if status > 0 else WorkerFailed(f"worker {self._number} {end}")
            if loop.time() - began >= STEADY:
                pause = FIRST_PAUSE
            logger.warning("worker %d %s: another one takes its place in %g s", self._number, end, pause)
            if output.is_json():
                output.result({"event": "worker_ended", "worker": self._number, "message": end})
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _live(self) -> int:
        """One process, to its end; its exit status."""
        async with self._crew.started(self._number) as (process, channel):
            questions = WorkersQuestions(self._crew.questions, channel.send)
            watch: asyncio.Task[None] | None = None
            try:
                while (message := await channel.receive()) is not None:
                    self._reacts = True
                    match message:
                        case Listening(addresses):
                            self._has_begun(addresses)
                            watch = asyncio.create_task(self._watch(process, channel))
                        case Printed():
                            self._crew.print(message, first=self._is_first)
                        case Asked() | Given() | Ended():
                            questions.take(message)
                questions.lose()
                return await process.wait()
            except BaseException:
                questions.lose("closed", "firewall")
                raise
            finally:
                if watch is not None:
                    watch.cancel()

    async def _watch(self, process: Process, channel: Channel) -> None:
        """Ends the process if it hangs: it would still get its part of the connections."""
        silent = 0
        while silent < LOOKS:
            self._reacts = False
            channel.send(Here())
            await asyncio.sleep(LOOK)
            silent = 0 if self._reacts else silent + 1
        logger.warning("worker %d has not reacted for %g s, and is ended", self._number, LOOK * LOOKS)
        with suppress(ProcessLookupError):
            process.kill()

    def _has_begun(self, addresses: list[str]) -> None:
        if self.listening.done():
            record: dict[str, Any] = {"event": "worker_replaced", "worker": self._number}
            output.result(record, f"worker {self._number:<7}was replaced")
        else:
            self.listening.set_result(addresses)


def _asker(questions: Questions, quiet: float | None) -> Asker:
    if output.is_json():
        return WorkersProgram(questions, Lines(), ban=ban_there)
    return WorkersPerson(questions, Lines.of_person(), quiet=quiet, ban=ban_there)


def _print(printed: Printed) -> None:
    if printed.record is not None:
        output.result(printed.record, printed.text)
    elif printed.text is not None:
        output.note(printed.text)
