"""Multicast sockets: one for each interface and IP family, and when it asks and answers."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
import string
import struct
import sys
from typing import TYPE_CHECKING, Final

from ..multiaddr import Ip
from ..resources.turns import Turns
from . import packets
from .packets import Announcement

if TYPE_CHECKING:
    from .mdns import Mdns

__all__ = ["PORT", "Link", "new_name"]

logger = logging.getLogger("stronghold_p2p")

PORT = 5353
"""Tests have another one each."""
GROUPS: Final = {4: "224.0.0.251", 6: "ff02::fb"}
IS_LINUX: Final = sys.platform == "linux"
IP_MULTICAST_ALL: Final = 49
"""Of Linux; the socket module does not have it."""

MAX_PACKET: Final = 9000
"""Bytes (RFC 6762, section 17)."""
READ_AT_ONCE: Final = 64
"""Packets, in one callback of the event loop."""

ANSWER_DELAY: Final = (0.02, 0.12)
"""Seconds, at random: all on the network are asked at once (RFC 6762, section 6). What asks meanwhile is answered by the
same packet."""
ANSWER_INTERVAL: Final = 1.0
"""Seconds between two answers at least, however many ask (RFC 6762, section 6)."""
FIRST_INTERVAL: Final = 1.0
LAST_INTERVAL: Final = 40.0
"""Seconds between questions, doubled each time (RFC 6762, section 5.2). The last one is a third of the TTL that is common,
so that an answer may be lost."""
ANNOUNCEMENTS: Final = 2
"""A second apart, without being asked (RFC 6762, section 8.3)."""
MAX_KNOWN: Final = 16
"""Instances that we tell in a question that we know: as many as fit into its packet, each with 63 characters."""

NAME_ALPHABET: Final = string.ascii_lowercase + string.digits
NAME_LENGTH: Final = range(32, 64)
"""Characters of an instance's name, as go-, rust- and js-libp2p have it."""


def new_name() -> str:
    """A name for an instance: at random, so that it tells nothing, and belongs to nobody else."""
    return "".join(secrets.choice(NAME_ALPHABET) for _ in range(secrets.choice(NAME_LENGTH)))


class Link:
    """One interface in one family. It asks for peers from now on, with growing intervals, and answers as it is told by
    :meth:`announce`.

    Raises:
        OSError: the interface has no multicast, or the port cannot be shared with whoever has it.
    """

    def __init__(
        self, interface: int, source: Ip, turns: Turns, owner: Mdns, *, told: Announcement | None = None
    ) -> None:
        """``interface`` is its number; ``source`` one of our addresses there, from which IPv4 is sent; ``told`` is what an
        earlier link there has announced, and could not say goodbye to."""
        self._interface = interface
        self._turns = turns
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._socket = _open(interface, source)
        group = GROUPS[source.version]
        self._group = (group, PORT) if source.version == 4 else (group, PORT, 0, interface)
        self._announcement = told
        self._is_told = told is not None
        """Somebody may have heard of the announcement."""
        self._to_announce = 0
        self._goodbyes: list[bytes] = []
        """To be sent after the next answer."""
        self._types_wanted = False
        self._last_answer = self._last_question = float("-inf")
        self._interval = FIRST_INTERVAL
        self._asking: asyncio.TimerHandle | None = None
        self._answering: asyncio.TimerHandle | None = None
        self._pausing: asyncio.TimerHandle | None = None
        self._known: dict[str, float] = {}
        """Instances that others have told of here, each with its end; those heard of last stand last."""
        self._loop.add_reader(self._socket, self._readable)
        self.ask()

    def close(self) -> Announcement | None:
        """Says goodbye. Returns what it could not say goodbye to: without an address nothing is sent."""
        unsaid = None
        if self._announcement is not None and self._is_told and not self._send(packets.goodbye(self._announcement)):
            unsaid = self._announcement
        for timer in (self._asking, self._answering, self._pausing):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        return unsaid

    # -- asking ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Asks everybody, now or in a second, and then with growing intervals."""
        self._interval = FIRST_INTERVAL
        when = max(self._loop.time() + _delay(), self._last_question + FIRST_INTERVAL)
        if self._asking is not None:
            when = min(when, self._asking.when())  # else many who call would put it off
        self._ask_at(when, all_peers=True)

    def _ask_at(self, when: float, *, all_peers: bool) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._asking = self._loop.call_at(when, self._ask, all_peers)

    def _ask(self, all_peers: bool) -> None:
        now = self._last_question = self._loop.time()
        # Those that must be heard of before the third question from now are not said to be known: an answer may be lost.
        needed = now + 3 * self._interval
        self._known = {name: expires for name, expires in self._known.items() if expires > now}
        known = [(name, int(expires - now)) for name, expires in self._known.items() if expires > needed]
        self._send(packets.encode_query([] if all_peers else known))
        self._ask_at(now + self._interval, all_peers=False)
        self._interval = min(2 * self._interval, LAST_INTERVAL)

    def knows(self, instance: str, ttl: int) -> None:
        """Somebody has told of ``instance``, which is valid for so many seconds; 0: it is gone."""
        self._known.pop(instance, None)
        if ttl and (self._announcement is None or instance != self._announcement.instance):
            self._known[instance] = self._loop.time() + ttl
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]

    # -- answering -------------------------------------------------------------------------------

    def announce(self, announcement: Announcement | None) -> None:
        """From now on, this is what we tell."""
        before, self._announcement = self._announcement, announcement
        if announcement == before:
            return
        if before is not None and self._is_told:
            self._goodbyes.append(packets.goodbye(before, but=announcement))
        self._is_told = False
        self._to_announce = ANNOUNCEMENTS
        if announcement is not None:
            self._answer_soon()
        else:
            self._say_goodbye()

    def answer(self, question: packets.Query) -> None:
        """Answers what somebody asks, if it is for us."""
        names = question.names
        instance = self._announcement.instance if self._announcement is not None else None
        wanted = packets.SERVICE in names or instance in names
        if instance is not None and (packets.TYPES in names or (wanted and instance not in question.known)):
            self._types_wanted |= packets.TYPES in names
            self._answer_soon()

    def _answer_soon(self) -> None:
        if self._answering is None:
            when = max(self._loop.time() + _delay(), self._last_answer + ANSWER_INTERVAL)
            self._answering = self._loop.call_at(when, self._answer)

    def _answer(self) -> None:
        self._answering = None
        if self._announcement is not None:
            self._send(self._announcement.answer)
            if self._types_wanted:
                self._send(packets.types())
            self._types_wanted = False
            self._is_told = True
            self._last_answer = self._loop.time()
            self._to_announce -= 1
            if self._to_announce > 0:
                self._answer_soon()
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        goodbyes, self._goodbyes = self._goodbyes, []
        for goodbye in goodbyes:
            self._send(goodbye)

    # -- packets ---------------------------------------------------------------------------------

    def _send(self, packet: bytes) -> bool:
        try:
            self._socket.sendto(packet, self._group)
        except OSError as error:
            logger.debug("mDNS on interface %d: not sent: %s", self._interface, error)  # as if it were lost on its way
            return False
        return True

    def _readable(self) -> None:
        for _ in range(READ_AT_ONCE):
            if self._turns.over:
                return  # what has come stays with the system
            try:
                data, sender = self._socket.recvfrom(MAX_PACKET + 1)
            except BlockingIOError:
                return
            except OSError as error:  # the interface is down
                logger.debug("mDNS on interface %d: %s", self._interface, error)
                return
            pause = self._owner.read()
            if len(data) <= MAX_PACKET:
                self._owner.heard(self, data, sender[0])
            if pause:
                self._loop.remove_reader(self._socket)
                self._pausing = self._loop.call_later(pause, self._loop.add_reader, self._socket, self._readable)
                return


def _open(interface: int, source: Ip) -> socket.socket:
    """A socket for the group on this interface alone.

    Bound to the group, which Linux allows, it gets no unicast: nothing from outside of the network, and nothing that is
    meant for another program with the same port.
    """
    group = GROUPS[source.version]
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET:
            opened.bind((group if IS_LINUX else "", PORT))
            if IS_LINUX:  # else it gets what other sockets have joined for, on other interfaces
                opened.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            member = struct.pack("=4s4si", socket.inet_aton(group), source.packed, interface)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind((group, PORT, 0, interface) if IS_LINUX else ("", PORT))
            member = socket.inet_pton(family, group) + struct.pack("@I", interface)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    except BaseException:
        opened.close()
        raise
    return opened


def _delay() -> float:
    return random.uniform(*ANSWER_DELAY)
