"""What is printed: results to stdout, as text or as one JSON object a line; errors and the log to stderr.

With ``--json`` an error goes to stdout, too, as ``{"error": <its class>, "message": ...}``. All of it is safe to show, and
nothing that becomes of the two streams stalls a command, or has it end without a word.
"""

from __future__ import annotations

import codecs
import logging
import re
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ..errors import InvalidAddress, NoResponse
from ..firewall.names import labelled
from ..identity import PeerId
from .text import escaped, json_text, printable
from .writer import OutputFailed, Writer

__all__ = [
    "OutputFailed",
    "configure",
    "data",
    "error",
    "forward",
    "in_background",
    "is_json",
    "is_stalled",
    "name_of",
    "name_peers",
    "named",
    "note",
    "peer_record",
    "printable",
    "release",
    "result",
    "shown",
    "styled",
    "who",
]


MAYBE_PEER_ID = re.compile(r"(?<![/\w])[1-9A-HJ-NP-Za-km-z]{46,53}(?!\w)")
"""Words in base58 as long as peer ids are. After a slash they are parts of addresses, which stay as they are."""


def _no_name(peer: PeerId) -> None: ...


_json = False
_debug = False
_name_of: Callable[[PeerId], str | None] = _no_name
_forward: Callable[[Any, str | None], None] | None = None
_stdout = Writer("stdout", essential=True)
_stderr = Writer("stderr", essential=False)


def configure(*, json: bool, debug: bool) -> None:
    """Choose the form of the output, and show the library's log: warnings, or everything with ``debug``."""
    global _json, _debug, _name_of, _forward
    _json, _debug, _name_of, _forward = json, debug, _no_name, None
    handler = _LogHandler()
    handler.setFormatter(_Formatter("%(levelname)s %(message)s") if debug else _BriefFormatter("%(message)s"))
    logging.getLogger("asyncio").handlers[:] = [handler]  # what it complains of may quote a remote
    logger = logging.getLogger("stronghold_p2p")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)


@asynccontextmanager
async def in_background() -> AsyncIterator[None]:
    """As long as it lasts, printing never waits; at its end, all is printed. Raises OutputFailed."""
    async with _stderr.in_background(), _stdout.in_background():
        yield


def forward(to: Callable[[Any, str | None], None] | None) -> None:
    """From now on ``to`` gets what :func:`result` and :func:`note` are given, and prints it; with None they do. A note is a
    text without a record."""
    global _forward
    _forward = to


def release() -> None:
    """From now on it is no failure if whoever reads what is printed leaves."""
    _stdout.release()


async def shown() -> None:
    """Returns when all results are printed."""
    await _stdout.drained()


def name_peers(name_of: Callable[[PeerId], str | None]) -> None:
    """From now on people are shown the names of peers that ``name_of`` knows."""
    global _name_of
    _name_of = name_of


def name_of(peer: PeerId) -> str | None:
    """What people call a peer, as it is: not made safe."""
    try:
        return _name_of(peer)
    except RuntimeError:  # a thread logs, or the loop has ended: a running peer tells it on its own loop only
        return None


def who(peer: PeerId) -> str:
    """A peer, for people: by its name, with both ends of its id; by its id if it has no name."""
    name = name_of(peer)
    return labelled(peer, None if name is None else escaped(name))


def peer_record(peer: PeerId) -> dict[str, str | None]:
    """A peer, for programs: its id, and its name or None."""
    return {"peer": str(peer), "name": name_of(peer)}


def is_json() -> bool:
    """Whether ``--json`` was given."""
    return _json


def is_stalled() -> bool:
    """Whether nobody reads what is printed, so that no more should be."""
    return _stdout.is_stalled


def result(record: object, text: str | None = None) -> None:
    """Print one result, at once: ``text`` for people; ``record`` as JSON with ``--json``, or if there is no text."""
    if _forward is not None:
        _forward(record, text)
        return
    if text is not None and not _json:
        styled(escaped(text, keep="\n"))
        return
    stream = _stdout.stream
    ascii = codecs.lookup(stream.encoding).name != "utf-8"
    _print(_stdout, json_text(record, plain=not stream.isatty(), ascii=ascii))


def data(content: bytes) -> None:
    """Print bytes as they are; on a terminal, what is safe to show of them."""
    if _stdout.stream.isatty():
        styled(escaped(content.decode(errors="surrogateescape"), keep="\n\t"))
    else:
        _stdout.write(content)


def note(text: str) -> None:
    """Print what only people need to know."""
    if _forward is not None:
        _forward(None, text)
    elif not _json:
        styled(escaped(text, keep="\n"))


def styled(text: str) -> None:
    """Print text that is known to be safe, with the colors that it has."""
    _print(_stdout, text)


def error(exception: Exception) -> None:
    """Tell why the command failed, with the traceback if ``--debug`` was given. Whatever becomes of that, it is no error."""
    name = type(exception).__name__
    try:
        told = _json
        if _json:
            told_by_remote = {}
            if isinstance(exception, NoResponse) and exception.reason is not None:
                told_by_remote = {"reason": exception.reason, "retry_after": exception.retry_after}
            result({"error": name, "message": str(exception), **told_by_remote})
    except OutputFailed:
        told = False
    if not told:
        _print(_stderr, escaped(f"{name}: {named(str(exception))}"))
    if _debug:
        _print(_stderr, escaped("".join(traceback.format_exception(exception)), keep="\n").rstrip())


def named(text: str) -> str:
    """The text with the names of peers in the place of their ids, but for those in addresses."""
    return MAYBE_PEER_ID.sub(lambda word: _named(word[0]), text)


def _named(word: str) -> str:
    try:
        return who(PeerId.parse(word))
    except InvalidAddress:
        return word


def _print(writer: Writer, text: str) -> None:
    """A line, or several."""
    writer.write(f"{text}\n".encode(writer.stream.encoding, "backslashreplace"))


class _LogHandler(logging.Handler):
    """Drops what nobody reads."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _stderr.is_stalled:
            _print(_stderr, self.format(record))


class _Formatter(logging.Formatter):
    """A record is a line, whatever a remote has put into it; only a traceback has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(named(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:
        return escaped(super().formatException(ei), keep="\n")


class _BriefFormatter(_Formatter):
    """Names an exception in one line, without its traceback."""

    def formatException(self, ei: Any) -> str:
        return escaped(f"  {ei[0].__name__}: {named(str(ei[1]))}")
