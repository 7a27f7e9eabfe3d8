"""Machines, the routers between them, and what happens to their packets: the part of the world that no program sees."""

from __future__ import annotations

import enum
import errno
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from typing import Final, NamedTuple

from .world import world

__all__ = ["Endpoint", "Machine", "Nat", "Network", "Router", "Stream"]

SYN_RETRIES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds after which a SYN without an answer is sent again, as Linux does; then the connection fails."""

FIRST_RETRY: Final = 0.2
"""Seconds after which data that was not acknowledged is sent again, as Linux does; twice as many each time."""

LAST_RETRY: Final = 8.0
"""Seconds at most between two such times. Linux goes on to 120: a world would have to wait for that."""

PATIENCE: Final = 900.0
"""Seconds until data that is not acknowledged ends a connection, unless the program sets fewer."""

TIME_WAIT: Final = 60.0
"""Seconds in which the end that has closed first remembers a connection."""

EPHEMERAL: Final = range(32768, 61000)

LOOPBACK: Final = 1
"""The number of the interface of a machine that leads to itself; the other one is 2."""


class Endpoint(NamedTuple):
    """An IP address and a port."""

    ip: str
    port: int


class Nat(enum.Enum):
    """What becomes of an address and a port at home. With IPv4 either is another outside (RFC 5382, section 4.1), with IPv6 both
    stay. Each lets in only whom the inside has written to."""

    ENDPOINT_INDEPENDENT = enum.auto()
    SYMMETRIC = enum.auto()
    NONE = enum.auto()


class Machine:
    """A computer on the public network, or at home behind a router."""

    def __init__(self, network: Network, name: str, ip: str, router: Router | None = None) -> None:
        self.name = name
        self.ip = ip
        self.router = router
        self.skew = 0.0
        self.is_on = True
        """Else it says nothing, and what it hears is lost."""
        self.listening: dict[Endpoint, Callable[[Stream], bool]] = {}
        """What takes a connection to that; False: its queue is full."""
        self.streams: dict[tuple[Endpoint, Endpoint], Stream] = {}
        """Connections by our endpoint, and the other one as we see it."""
        self.remembered: set[tuple[Endpoint, Endpoint]] = set()
        """Those that have ended, and would be taken for new ones."""
        self.network_changed: list[Callable[[], None]] = []
        """Called when the address has changed."""
        self.members: dict[Callable[[bytes, str], None], tuple[int, Endpoint]] = {}
        """What gets the packets to a group on one of our interfaces."""
        self.network = network
        self._ports = itertools.cycle(EPHEMERAL)
        for _ in range(world.chance.randrange(1000)):
            next(self._ports)
        network.machines.append(self)
        if router is not None and router.nat is Nat.NONE:
            network.routers[ip] = router

    def free_port(self) -> int:
        used = {end.port for end in self.listening} | {ours.port for ours, _ in self.streams}
        return next(port for port in self._ports if port not in used)

    def move(self, ip: str) -> None:
        """Has another address from now on, as after a change of networks. What came from the old one leads nowhere."""
        self.ip = ip
        for changed in tuple(self.network_changed):
            changed()

    def lose_power(self) -> None:
        """Nobody is told."""
        self.is_on = False
        for stream in tuple(self.streams.values()):
            stream.forget()
        self.listening.clear()
        self.remembered.clear()
        self.network_changed.clear()
        self.members.clear()

    def ip_of(self, interface: int) -> str:
        """Our address there."""
        return self.ip if interface != LOOPBACK else "::1" if self.network.is_ip6 else "127.0.0.1"

    def listener_at(self, end: Endpoint) -> Callable[[Stream], bool] | None:
        return self.listening.get(end) or self.listening.get(Endpoint(self.network.any_ip, end.port))


class Router:
    """Of a home. It forwards what nobody at home has asked for to nobody, and says nothing about that."""

    def __init__(self, network: Network, ip: str, nat: Nat) -> None:
        self.ip = ip
        self.nat = nat
        self._ports: dict[tuple[Endpoint, Endpoint | None], int] = {}
        self._inside: dict[int, Endpoint] = {}
        self._asked: set[tuple[Endpoint, Endpoint]] = set()
        network.routers[ip] = self

    def leave(self, inside: Endpoint, remote: Endpoint) -> Endpoint:
        """As what ``remote`` sees ``inside``."""
        if self.nat is Nat.NONE:
            self._asked.add((inside, remote))
            return inside
        key = inside, (remote if self.nat is Nat.SYMMETRIC else None)
        port = self._ports.get(key)
        if port is None:
            port = inside.port
            while port in self._inside or (self.nat is Nat.SYMMETRIC and port == inside.port):
                port = world.chance.choice(EPHEMERAL)
            self._ports[key] = port
            self._inside[port] = inside
        outside = Endpoint(self.ip, port)
        self._asked.add((outside, remote))
        return outside

    def enter(self, to: Endpoint, remote: Endpoint) -> Endpoint | None:
        """Whom at home ``remote`` meets there."""
        if (to, remote) not in self._asked:
            return None
        return to if self.nat is Nat.NONE else self._inside.get(to.port)

    def restart(self) -> None:
        """Forgets everything."""
        self._ports.clear()
        self._inside.clear()
        self._asked.clear()


class Network:
    """Packets arrive in order on each connection, after a time; those that are lost are sent again."""

    def __init__(self, *, is_ip6: bool = False) -> None:
        """``is_ip6``: it speaks IPv6 alone; else IPv4 alone."""
        self.is_ip6 = is_ip6
        self.machines: list[Machine] = []
        self.routers: dict[str, Router] = {}
        """By the addresses that lead to them."""
        self.names: dict[str, Machine] = {}
        """Of machines, in DNS."""
        self.delay = world.chance.choice((0.0005, 0.01, 0.08))
        """Seconds on the way, at least."""
        self.jitter = world.chance.choice((0.0, 0.005, 0.05))
        """Seconds more, at most."""
        self.loss = world.chance.choice((0.0, 0.0, 0.01, 0.1))
        """Of the packets."""
        self.segment = world.chance.choice((1 << 20, 1 << 20, 1400, 100))
        """Bytes that arrive at once, at most."""
        self.window = world.chance.choice((1 << 20, 1 << 16, 5000))
        """Bytes that are on the way or unread, at most: then a program has to wait."""
        self.gives_up = world.chance.random() < 0.5
        """Whether systems end a connection whose data nobody acknowledges in the time that a program sets, as Linux does."""
        self.apart: set[frozenset[Machine]] = set()
        """Pairs that cannot reach each other."""

    def __str__(self) -> str:
        return (
            f"{self.delay * 1000:g} ms, at most {self.jitter * 1000:g} more; {self.loss:.0%} are lost; at most "
            f"{self.segment} bytes arrive at once, {self.window} are on the way"
        )

    @property
    def any_ip(self) -> str:
        """That of all addresses of a machine."""
        return "::" if self.is_ip6 else "0.0.0.0"

    @property
    def is_fast(self) -> bool:
        """Whether a megabyte takes no time that matters."""
        return self.delay < 0.05 and self.window > 5000 and self.segment > 1000

    def heal(self) -> None:
        """From now on nothing is lost, little has to wait, and all reach each other."""
        self.loss = 0.0
        self.window = max(self.window, 1 << 16)
        self.apart.clear()

    def takes(self) -> float:
        """Seconds of a packet."""
        return self.delay + world.chance.random() * self.jitter

    def is_lost(self) -> bool:
        return world.chance.random() < self.loss

    def joins(self, one: Machine, other: Machine) -> bool:
        return one.is_on and other.is_on and frozenset((one, other)) not in self.apart

    def route(self, sender: Machine, source: Endpoint, to: Endpoint) -> tuple[Machine, Endpoint, Endpoint] | None:
        """Whom a packet reaches, at which of its endpoints, and from where it seems to come; None: nobody."""
        if source.ip != sender.ip:
            return None
        machine = self._machine_at(to.ip, sender.router)
        if machine is None and sender.router is not None:
            if to.ip == sender.router.ip or ip_address(to.ip).is_private:
                return None  # no hairpin
            source = sender.router.leave(source, to)
        if machine is None and (router := self.routers.get(to.ip)) is not None:
            inside = router.enter(to, source)
            if inside is None:
                return None
            to = inside
            machine = self._machine_at(to.ip, router)
        elif machine is None:
            machine = self._machine_at(to.ip, None)
        return (machine, to, source) if machine is not None and self.joins(sender, machine) else None

    def _machine_at(self, ip: str, router: Router | None) -> Machine | None:
        """That of a home, or of the public network."""
        return next((machine for machine in self.machines if machine.ip == ip and machine.router is router), None)

    def spread(self, sender: Machine, interface: int, group: Endpoint, data: bytes) -> None:
        """Has a packet reach all that are members of the group there: at home, or on the machine itself."""
        for machine in self.machines:
            is_near = machine is sender or (interface != LOOPBACK and machine.router is sender.router is not None)
            if is_near and self.joins(sender, machine) and not self.is_lost():
                for member, joined in machine.members.items():
                    if joined == (interface, group):
                        world.after(self.takes(), partial(member, data, sender.ip_of(interface)))

    def look_up(self, name: str) -> str | None:
        """The address of a machine; None: nobody has answered."""
        return None if self.is_lost() else self.names[name].ip


class Stream:
    """One end of a TCP connection, as the system has it. It outlives the program's socket."""

    def __init__(self, network: Network, machine: Machine, local: Endpoint, remote: Endpoint) -> None:
        self.machine = machine
        self.local = local
        self.remote = remote
        """As we see it."""
        self.patience = PATIENCE
        self.inbox = bytearray()
        self.has_ended = False
        """The other end has said that it sends no more."""
        self.error = 0
        self.is_open = False
        """Whether the other end has answered."""
        self.released = False
        """The program has closed its socket."""
        self.gone = False
        """Nothing is known of it here."""
        self.other: Stream | None = None
        self._network = network
        self._outbox: deque[tuple[float, bytes]] = deque()
        """What was not acknowledged, each with the time by which it may arrive; b"" is the end."""
        self._out = 0
        self._ending = False
        self._carrying = False
        machine.streams[local, remote] = self

    # -- the connection --------------------------------------------------------------------------

    def connect(self) -> None:
        """Sends SYN until somebody answers."""
        self._knock(iter(SYN_RETRIES))

    def _knock(self, retries: Iterator[float]) -> None:
        if self.is_open or self.gone or self.error or self.released:
            return
        if not self._network.is_lost():
            world.after(self._network.takes(), self._arrive)
        wait = next(retries, None)
        if wait is None:
            self._fail(errno.ETIMEDOUT)
        else:
            world.after(wait, lambda: self._knock(retries))

    def _arrive(self) -> None:
        """Our SYN is there."""
        found = None if self.is_open or self.gone else self._network.route(self.machine, self.local, self.remote)
        if found is None:
            return
        machine, at, source = found
        known = machine.streams.get((at, source))
        if known is not None and known.gone:
            known = None
        if known is not None and not known.is_open and not known.released and known.other is None:
            self._join(known)  # both have dialed
            return
        if known is not None:
            if known.other is not self:
                # Left of a connection whose other end is gone. Its answer to a SYN has ours reset it, and our next SYN finds
                # nobody in the way (RFC 5961, section 4).
                world.after(self._network.takes(), known._be_reset)
            return
        take = machine.listener_at(at)
        if take is None:
            world.after(self._network.takes(), lambda: self._fail(errno.ECONNREFUSED))
            return
        accepted = Stream(self._network, machine, at, source)
        accepted.is_open = True
        if not take(accepted):
            accepted.forget()
            return
        accepted.other, self.other = self, accepted
        world.after(self._network.takes(), self._answered)

    def _join(self, known: Stream) -> None:
        self.other, known.other = known, self
        world.after(self._network.takes(), self._answered)
        world.after(self._network.takes(), known._answered)

    def _answered(self) -> None:
        assert self.other is not None
        if self.gone or self.released:
            self.other._be_reset()
        elif not self.error and not self.other.gone:
            self.is_open = True
            self._carry()

    # -- what is sent ----------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes that may be sent now."""
        return max(self._network.window - self._out, 0)

    def send(self, data: bytes) -> None:
        self._out += len(data)
        for start in range(0, len(data), self._network.segment):
            self._put(data[start : start + self._network.segment])

    def end(self) -> None:
        """Says that we send no more."""
        if not self._ending and not self.gone:
            self._ending = True
            self._put(b"")

    def _put(self, data: bytes) -> None:
        arrives = world.now + self._network.takes()
        if self._network.is_lost():
            arrives += FIRST_RETRY
        if self._outbox:
            arrives = max(arrives, self._outbox[-1][0])
        self._outbox.append((arrives, data))
        self._carry()

    def _carry(self) -> None:
        """Has the first of what is out arrive."""
        if self._outbox and not self._carrying and self.is_open and not self.gone:
            self._carrying = True
            world.after(max(self._outbox[0][0] - world.now, 0.0), lambda: self._deliver(FIRST_RETRY, world.now))

    def _deliver(self, retry: float, since: float) -> None:
        self._carrying = False
        if self.gone or not self._outbox:
            return
        other = self.other
        assert other is not None
        if not self._leads_to(other):
            if world.now - since > self.patience:
                self._fail(errno.ETIMEDOUT)
                return
            self._carrying = True
            world.after(retry, lambda: self._deliver(min(2 * retry, LAST_RETRY), since))
            return
        if other.gone:
            self._be_reset()
            return
        while self._outbox and self._outbox[0][0] <= world.now and len(other.inbox) < self._network.window:
            _, data = self._outbox.popleft()
            self._out -= len(data)
            if not data:
                other.has_ended = True
                other._end_if_done()
            elif other.released:
                self._be_reset()
                other.forget()
                return
            else:
                other.inbox += data
        self._end_if_done()
        if self._outbox and self._outbox[0][0] > world.now:
            self._carry()  # else when the other end has read

    def _leads_to(self, other: Stream) -> bool:
        if not self._network.joins(self.machine, other.machine):
            return False
        found = self._network.route(self.machine, self.local, self.remote)
        return found == (other.machine, other.local, other.remote)

    # -- what is read ----------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        if self.other is not None:
            self.other._carry()
        return data

    # -- ends ------------------------------------------------------------------------------------

    def release(self, *, reset: bool = False) -> None:
        """The program has closed its socket; ``reset``: as one that says so at once."""
        self.released = True
        if self.other is None:
            self.forget()
        elif (self.inbox or reset) and not self.gone:
            self.inbox.clear()
            other = self.other
            world.after(self._network.takes(), lambda: other._be_reset() if other._leads_to(self) else None)
            self.forget()
        else:
            self.end()
            self._end_if_done()

    def _end_if_done(self) -> None:
        if self.released and self._ending and not self._outbox and self.has_ended and not self.gone:
            key = self.local, self.remote
            remembered = self.machine.remembered
            remembered.add(key)
            world.after(TIME_WAIT, lambda: remembered.discard(key))
            self.forget()

    def _be_reset(self) -> None:
        self._fail(errno.ECONNRESET)

    def _fail(self, error: int) -> None:
        if not self.gone and not (error == errno.ECONNREFUSED and self.is_open):
            self.error = error
            self.forget()

    def forget(self) -> None:
        """Whatever comes for it is answered with a reset."""
        self.gone = True
        self._outbox.clear()
        if self.machine.streams.get((self.local, self.remote)) is self:
            del self.machine.streams[self.local, self.remote]
