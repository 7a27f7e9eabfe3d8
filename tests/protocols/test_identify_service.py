"""What is known of a remote once it was asked what it is."""

from __future__ import annotations

from typing import Any

import pytest
from support.connections import ECHO, Pair, connected
from support.waiting import settled, until

from stronghold_p2p import Config, Multiaddr, Stream
from stronghold_p2p.protocols import identify
from stronghold_p2p.protocols.identify import IdentifyService, message
from stronghold_p2p.transport.state import RemoteIdentify

UNKNOWN, MISSING, SERVED = RemoteIdentify.UNKNOWN, RemoteIdentify.MISSING, RemoteIdentify.SERVED


class Alice:
    """Asks ``bob``: the swarm, as far as the service knows it."""

    listen_addresses = ()

    def __init__(self, pair: Pair) -> None:
        self.config = pair.alice_host.config
        self.keypair = pair.alice_host.keypair
        self.told: list[identify.Identity] = []
        self.service = IdentifyService()
        self.service.attach(self)  # type: ignore[arg-type]
        self.service.connected(pair.alice)

    def offered(self, peer: object) -> tuple[str, ...]:
        return ()

    def identified(self, connection: Any, identity: identify.Identity) -> None:
        self.told.append(identity)
        connection.remote_identified(identity.protocols, own_kind=False)


async def bob_answers(pair: Pair) -> Stream:
    return await pair.bob_host.inbound.get()


async def test_a_remote_that_tells_has_identify() -> None:
    async with connected() as pair:
        pair.bob_host.offered.add(identify.PROTOCOL)
        alice = Alice(pair)
        stream = await bob_answers(pair)
        assert pair.alice.remote_identify is UNKNOWN
        key = pair.bob_host.keypair.public_key
        observed = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
        told = message.encode(key, protocols=[ECHO], listen_addresses=(), record=None, observed_address=observed)
        await message.serve(stream, told)
        await until(lambda: alice.told)
        assert pair.alice.remote_identify is SERVED
        pair.alice.remote_without_identify()
        assert pair.alice.remote_identify is SERVED


async def test_a_remote_that_does_not_serve_it_has_none() -> None:
    async with connected() as pair:
        Alice(pair)
        await until(lambda: pair.alice.remote_identify is MISSING)
        pair.alice.remote_identified((ECHO,), own_kind=False)  # a push may still tell
        assert pair.alice.remote_identify is SERVED


async def test_a_remote_that_does_not_answer_in_time_has_none() -> None:
    async with connected(Config(request_timeout=0.02)) as pair:
        pair.bob_pipe.reading = False
        Alice(pair)
        await until(lambda: pair.alice.remote_identify is MISSING)


@pytest.mark.parametrize("answer", ["nothing", "nonsense", "reset"])
async def test_a_remote_that_agrees_to_it_has_it_whatever_it_tells(answer: str) -> None:
    async with connected(Config(request_timeout=0.05), bob_config=Config()) as pair:
        pair.bob_host.offered.add(identify.PROTOCOL)
        alice = Alice(pair)
        stream = await bob_answers(pair)
        await until(lambda: pair.alice.serves(identify.PROTOCOL))
        if answer == "reset":
            stream.reset()
        elif answer == "nonsense":
            await stream.write(b"\xff" * 20)
            await stream.close_write()
        await until(lambda: not pair.alice.info.streams)
        await settled()
        assert pair.alice.remote_identify is UNKNOWN
        assert not alice.told


async def test_a_remote_that_has_no_stream_to_spare_was_not_asked() -> None:
    async with connected(Config(request_timeout=0.02, max_outbound_streams_to_others=1)) as pair:
        await pair.streams()
        Alice(pair)
        await until(lambda: not pair.alice.tasks.fewer_than(1))
        await until(lambda: pair.alice.tasks.fewer_than(1))
        assert pair.alice.remote_identify is UNKNOWN
