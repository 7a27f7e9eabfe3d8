"""The sockets of a simulated world, in place of the system's: what asyncio and the library do with them is their own code."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
from collections import deque
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final, NoReturn, Self

from .network import Endpoint, Stream
from .process import Process
from .world import here, world

__all__ = ["RESETS", "Deadlock", "Selector", "Socket"]

RESETS: Final = struct.pack("ii", 1, 0)
"""As SO_LINGER: a close is a reset."""

JOINS: Final = {(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP), (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP)}
"""As options: the socket becomes a member of a group."""


class Deadlock(Exception):
    """Nothing will ever happen any more, and the program waits."""


class Socket:
    """A socket of the process that runs now: TCP over IP, UDP to groups, and as far as it tells our address, netlink as far as it
    tells of changes."""

    def __init__(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0) -> None:
        process = here.get()
        assert isinstance(process, Process), "what directs the world has no sockets"
        ip_family = socket.AF_INET6 if process.machine.network.is_ip6 else socket.AF_INET
        if family not in (ip_family, socket.AF_NETLINK):
            _fail(errno.EAFNOSUPPORT)
        self.family, self.type, self.proto = family, type & ~socket.SOCK_NONBLOCK, proto
        self._process = process
        self._machine = process.machine
        self._fd = process.open(self)
        self._options: dict[tuple[int, int], Any] = {}
        self._local = Endpoint(self._machine.network.any_ip, 0)
        self._stream: Stream | None = None
        self._waiting: deque[Stream] | None = None
        """Connections that are to be accepted; None: does not listen."""
        self._backlog = 0
        self._is_told = False
        self._packets: deque[tuple[bytes, str]] = deque()
        """To a group of which it is a member, each with its sender."""
        if family == socket.AF_NETLINK:
            self._machine.network_changed.append(self._tell)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Socket {self._fd} of {self._process}, {self._local}>"

    # -- what it is ------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._fd

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def gettimeout(self) -> float:
        return 0.0

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._options[level, option] = value
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) and self._stream is not None:
            self._stream.patience = value / 1000
        elif (level, option) in JOINS:
            (interface,) = struct.unpack("i", value[-4:])
            self._machine.members[self._hear] = interface, self._local

    def getsockopt(self, level: int, option: int) -> int:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR):
            return self._take_error()
        return int(self._options.get((level, option), 0))

    def getsockname(self) -> tuple[str, int]:
        return self._stream.local if self._stream is not None else self._local

    def getpeername(self) -> tuple[str, int]:
        if self._stream is None or not self._stream.is_open or self._stream.gone:
            _fail(errno.ENOTCONN)
        return self._stream.remote

    # -- readiness -------------------------------------------------------------------------------

    def ready(self, events: int) -> int:
        """Those of the events that are there."""
        stream = self._stream
        if stream is None:
            return events & selectors.EVENT_READ if self._waiting or self._is_told or self._packets else 0
        if stream.gone:
            return events
        readable = selectors.EVENT_READ if stream.inbox or stream.has_ended else 0
        if events & selectors.EVENT_WRITE and stream.is_open and stream.room:
            return events & (readable | selectors.EVENT_WRITE)
        return events & readable

    # -- ends ------------------------------------------------------------------------------------

    def bind(self, where: Any) -> None:
        if self.family == socket.AF_NETLINK:
            return
        local = Endpoint(*where[:2])
        ip = ip_address(local.ip)
        if not (ip.is_unspecified or ip.is_multicast) and local.ip != self._machine.ip:
            _fail(errno.EADDRNOTAVAIL)
        if local.port == 0:
            local = Endpoint(local.ip, self._machine.free_port())
        for one in self._process.sockets.values():
            if one is not self and one._local.port == local.port and not self._shares_with(one):
                other = ip_address(one._local.ip)
                if ip == other or ip.is_unspecified or other.is_unspecified:
                    _fail(errno.EADDRINUSE)
        self._local = local

    def _shares_with(self, other: Socket) -> bool:
        """Whether both may be bound to one port."""
        return all(one._has(socket.SO_REUSEPORT) for one in (self, other)) or (
            all(one._has(socket.SO_REUSEADDR) for one in (self, other)) and other._waiting is None
        )

    def _has(self, option: int) -> bool:
        return bool(self._options.get((socket.SOL_SOCKET, option)))

    def listen(self, backlog: int) -> None:
        if self._local in self._machine.listening:
            _fail(errno.EADDRINUSE)
        self._waiting = deque()
        self._backlog = backlog
        self._machine.listening[self._local] = self._take

    def _take(self, stream: Stream) -> bool:
        assert self._waiting is not None
        if len(self._waiting) >= self._backlog:
            return False
        self._waiting.append(stream)
        return True

    def accept(self) -> tuple[Socket, tuple[str, int]]:
        if not self._waiting:
            _fail(errno.EAGAIN)
        stream = self._waiting.popleft()
        made = Socket(self.family, self.type, self.proto)
        made._local, made._stream = stream.local, stream
        return made, stream.remote

    def connect(self, where: Any) -> None:
        remote = Endpoint(*where[:2])
        if self.type == socket.SOCK_DGRAM:
            self._local = Endpoint(self._machine.ip, self._machine.free_port())
            return
        local = Endpoint(self._machine.ip, self._local.port or self._machine.free_port())
        if (local, remote) in self._machine.streams or (local, remote) in self._machine.remembered:
            _fail(errno.EADDRNOTAVAIL)
        self._stream = Stream(self._machine.network, self._machine, local, remote)
        self._stream.connect()
        _fail(errno.EINPROGRESS)

    # -- bytes -----------------------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        if self._is_told:
            self._is_told = False
            return b"\0"
        stream = self._stream
        if stream is None:
            _fail(errno.EAGAIN)
        if stream.inbox:
            return stream.read(size)
        if error := self._take_error():
            _fail(error)
        if not stream.has_ended and not stream.gone:
            _fail(errno.EAGAIN)
        return b""

    def recv_into(self, buffer: memoryview) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        stream = self._stream
        assert stream is not None
        if error := self._take_error():
            _fail(error)
        if stream.gone:
            _fail(errno.EPIPE)
        if not (size := min(len(data), stream.room)):
            _fail(errno.EAGAIN)
        stream.send(bytes(data[:size]))
        return size

    def sendmsg(self, buffers: Iterable[bytes | bytearray | memoryview]) -> int:
        """As the event loop sends from Python 3.12 on."""
        return self.send(b"".join(buffers))

    def sendto(self, data: bytes, where: Any) -> int:
        interface, group = self._machine.members[self._hear]
        self._machine.network.spread(self._machine, interface, group, data)
        return len(data)

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        if not self._packets:
            _fail(errno.EAGAIN)
        data, sender = self._packets.popleft()
        return data[:size], (sender, self._local.port)

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        if self._stream is None or self._stream.gone:
            _fail(errno.ENOTCONN)
        self._stream.end()

    def close(self) -> None:
        if self._fd < 0:
            return
        self.vanish()
        if self._tell in self._machine.network_changed:
            self._machine.network_changed.remove(self._tell)
        self._machine.members.pop(self._hear, None)
        if self._waiting is not None:
            self._machine.listening.pop(self._local, None)
            for stream in self._waiting:
                stream.release()
        if self._stream is not None:
            self._stream.release(reset=self._options.get((socket.SOL_SOCKET, socket.SO_LINGER)) == RESETS)

    def vanish(self) -> None:
        """It is open no more, and nothing is said to anybody."""
        self._process.forget(self._fd)
        self._fd = -1

    def detach(self) -> int:
        raise NotImplementedError("nothing in a world takes a bare descriptor")

    # -- details ---------------------------------------------------------------------------------

    def _take_error(self) -> int:
        if self._stream is None:
            return 0
        error, self._stream.error = self._stream.error, 0
        return error

    def _tell(self) -> None:
        self._is_told = True

    def _hear(self, data: bytes, sender: str) -> None:
        self._packets.append((data, sender))


class _Keys(dict[int, selectors.SelectorKey]):
    """By descriptor; what has one finds its key, too, as in the selectors of Python."""

    def get(self, fileobj: Any, default: Any = None) -> Any:
        return super().get(_fd_of(fileobj), default)


class Selector(selectors.BaseSelector):
    """What the event loop calls between two turns: time passes here, until something can be read, written, or is due."""

    def __init__(self) -> None:
        self._keys = _Keys()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = _fd_of(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        if fd not in Process.sockets_of_all:
            raise ValueError(f"{fileobj!r} is not open")
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(_fd_of(fileobj))

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[_fd_of(fileobj)]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def drop(self, fds: Iterable[int]) -> list[selectors.SelectorKey | None]:
        """The process that watches them is no more."""
        return [self._keys.pop(fd, None) for fd in fds]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        end = float("inf") if timeout is None else world.now + max(timeout, 0.0)
        while world.next_at <= world.now:
            world.pass_until(world.now)
        while not (ready := self._ready()) and world.now < end:
            if not world.pass_until(end):
                raise Deadlock("nothing will ever happen any more, and what directs the world waits")
        world.chance.shuffle(ready)
        return ready

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        found = []
        for fd, key in self._keys.items():
            one = Process.sockets_of_all.get(fd)
            assert one is not None, f"descriptor {fd} was closed while the event loop watches it: {key}"
            if events := one.ready(key.events):
                found.append((key, events))
        return found


def _fd_of(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()


def _fail(error: int) -> NoReturn:
    raise OSError(error, os.strerror(error))
