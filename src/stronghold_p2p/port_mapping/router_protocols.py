"""Port mapping by PCP (RFC 6887) and NAT-PMP (RFC 6886)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final, TypeAlias, TypeVar

from ..errors import DecodeError, PortMappingError
from ..loops import loop_time
from . import nat_pmp, pcp
from .epoch import Epoch
from .exchange import WAITS, ask
from .gateway import Gateway
from .mapping import LIFETIME, PortMapping

__all__ = ["NatPmp", "Pcp"]

T = TypeVar("T")

Response: TypeAlias = nat_pmp.Response | pcp.Response

UNMAP_WAITS: Final = WAITS[:2]
"""Whoever closes waits for them."""

ANY: Final = IPv4Address(0)


class _RouterProtocol:
    name: str

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._epoch = Epoch()
        self.lost = False

    async def _ask(self, request: bytes, read: Callable[[Response], T | None], waits: Sequence[float] = WAITS) -> T:
        """What ``read`` makes of the answer; None: it is not the one.

        Raises:
            PortMappingError: as ``read`` does, or there is no answer in this version of the protocol.
        """

        def read_datagram(data: bytes) -> T | None:
            try:
                # Each of the two refuses the other by its own kind of message (RFC 6887, section 9).
                response = (nat_pmp if data[:1] == bytes((nat_pmp.VERSION,)) else pcp).decode_response(data)
            except DecodeError:
                return None  # the router's answer may be yet to come
            if isinstance(response, nat_pmp.ErrorResponse | pcp.VersionResponse) and response.result == 1:
                raise PortMappingError(self.name, "the router does not support this protocol")
            return read(response)

        where = f"from {self._gateway.address}"
        try:
            return await ask(self._gateway, request, read_datagram, waits)
        except TimeoutError:
            raise PortMappingError(self.name, f"no answer {where}", answered=False) from None
        except OSError as error:
            reason = f"no answer {where}: {(error.strerror or str(error)).lower()}"
            raise PortMappingError(self.name, reason, answered=False) from error

    def _see(self, epoch: int) -> None:
        if self._epoch.has_restarted(epoch, loop_time()):
            self.lost = True

    def _check_result(self, result: int, codes: type[IntEnum]) -> None:
        """Raises PortMappingError."""
        if result:
            name = next((code.name for code in codes if code == result), f"code {result}")
            raise PortMappingError(self.name, f"the router refuses: {name}")

    def _granted(self, external: IPv4Address, external_port: int, lifetime: int) -> PortMapping:
        """Raises PortMappingError."""
        if not external_port or not lifetime:
            raise PortMappingError(self.name, f"the router offers port {external_port} for {lifetime} s")
        return PortMapping(external, external_port, lifetime)


class Pcp(_RouterProtocol):
    """By PCP."""

    name = "PCP"

    def __init__(self, gateway: Gateway, secret: bytes) -> None:
        super().__init__(gateway)
        self._secret = secret

    async def map(self, port: int, former: PortMapping | None) -> PortMapping:
        external, external_port = (former.external, former.external_port) if former else (ANY, port)
        answer = await self._ask_for(port, external_port, external, LIFETIME)
        if answer.external_address is None:
            raise PortMappingError(self.name, "the router offers an IPv6 address for an IPv4 one")
        return self._granted(answer.external_address, answer.external_port, answer.lifetime)

    async def unmap(self, port: int) -> None:
        with suppress(PortMappingError):
            await self._ask_for(port, 0, ANY, 0, UNMAP_WAITS)

    async def check(self) -> None:
        def read(response: Response) -> pcp.AnnounceResponse | None:
            return response if isinstance(response, pcp.AnnounceResponse) else None

        self._see((await self._ask(pcp.encode_announce_request(self._gateway.local), read)).epoch)

    async def _ask_for(
        self, port: int, external_port: int, external: IPv4Address, lifetime: int, waits: Sequence[float] = WAITS
    ) -> pcp.MapResponse:
        """Raises PortMappingError."""
        # Only who has the nonce of a mapping may change it (section 11.2). Derived, it is there again after a crash.
        gateway = self._gateway.address.packed
        nonce = hashlib.sha256(self._secret + gateway + port.to_bytes(2)).digest()[: pcp.NONCE_SIZE]

        def read(response: Response) -> pcp.MapResponse | None:
            if not isinstance(response, pcp.MapResponse) or (response.nonce, response.internal_port) != (nonce, port):
                return None
            self._see(response.epoch)
            self._check_result(response.result, pcp.ResultCode)
            return response

        request = pcp.encode_map_request(self._gateway.local, nonce, port, external_port, external, lifetime)
        return await self._ask(request, read, waits)


class NatPmp(_RouterProtocol):
    """By NAT-PMP."""

    name = "NAT-PMP"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self._external = ANY

    async def map(self, port: int, former: PortMapping | None) -> PortMapping:
        await self._ask_for_address()
        answer = await self._ask_for(port, former.external_port if former else port, LIFETIME)
        return self._granted(self._external, answer.external_port, answer.lifetime)

    async def unmap(self, port: int) -> None:
        with suppress(PortMappingError):
            await self._ask_for(port, 0, 0, UNMAP_WAITS)

    async def check(self) -> None:
        before = self._external
        await self._ask_for_address()
        if self._external != before:
            self.lost = True

    async def _ask_for_address(self) -> None:
        """Raises PortMappingError."""

        def read(response: Response) -> nat_pmp.AddressResponse | None:
            self._check(response, nat_pmp.ADDRESS)
            return response if isinstance(response, nat_pmp.AddressResponse) else None

        answer = await self._ask(nat_pmp.encode_address_request(), read)
        self._see(answer.epoch)
        self._external = answer.address

    async def _ask_for(
        self, port: int, external_port: int, lifetime: int, waits: Sequence[float] = WAITS
    ) -> nat_pmp.MapResponse:
        """Raises PortMappingError."""

        def read(response: Response) -> nat_pmp.MapResponse | None:
            self._check(response, nat_pmp.MAP_TCP)
            return response if isinstance(response, nat_pmp.MapResponse) and response.internal_port == port else None

        answer = await self._ask(nat_pmp.encode_map_request(port, external_port, lifetime), read, waits)
        self._see(answer.epoch)
        return answer

    def _check(self, response: Response, opcode: int) -> None:
        """Raises PortMappingError."""
        if isinstance(response, nat_pmp.ErrorResponse) and response.opcode == opcode:
            self._see(response.epoch)
            self._check_result(response.result, nat_pmp.ResultCode)
