"""TXT records that are addresses: which are taken, and what is said when name servers fail."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from support.name_server import Answer, NameServer, name_server, txt

from stronghold_p2p import Keypair, Multiaddr
from stronghold_p2p.transport.dnsaddr import MAX_RECORDS, TxtRecords, addresses_in
from stronghold_p2p.transport.resolver import Resolved, SystemResolver

BOB, CAROL = Keypair.generate().peer_id, Keypair.generate().peer_id
ONE, TWO = "/ip4/1.2.3.4/tcp/1", "/dns4/one.example/tcp/2"


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as server:
        yield server


async def resolve(server: NameServer, text: str = "/dnsaddr/bob.example", time: float = 5.0) -> Resolved:
    resolver = SystemResolver(TxtRecords([("127.0.0.1", server.port)], time))
    return await resolver.resolve(Multiaddr.parse(text), BOB, told=False)


def taken(*records: str | bytes, suffix: str = "") -> list[str]:
    """The addresses of Bob in records."""
    end = Multiaddr.parse(suffix).components if suffix else ()
    found = addresses_in([one if isinstance(one, bytes) else one.encode() for one in records], end, BOB)
    return [str(address) for address in found]


# -- records -------------------------------------------------------------------------------------------


def test_a_record_with_the_peer_or_without_any() -> None:
    assert taken(f"dnsaddr={ONE}/p2p/{BOB}", f"dnsaddr={TWO}") == [ONE, TWO]


def test_the_peer_is_compared_as_such_not_as_text() -> None:
    assert taken(f"dnsaddr={ONE}/ipfs/{BOB}") == [ONE]
    relayed = f"{ONE}/p2p/{BOB}/p2p-circuit"  # Bob is the relay
    with pytest.raises(OSError, match=r": 1 of other peers$"):
        taken(f"dnsaddr={relayed}/p2p/{CAROL}")


def test_a_relayed_address_is_kept() -> None:
    relayed = f"{ONE}/p2p/{CAROL}/p2p-circuit"
    assert taken(f"dnsaddr={relayed}/p2p/{BOB}", f"dnsaddr={relayed}") == [relayed]


def test_what_follows_the_name_is_a_suffix_by_components() -> None:
    records = f"dnsaddr={ONE}/p2p/{BOB}", "dnsaddr=/ip4/1.2.3.4/tcp/11", f"dnsaddr={ONE}/ws"
    assert taken(*records, suffix="/tcp/1") == [ONE]
    assert taken(*records, suffix="/ws") == [f"{ONE}/ws"]
    with pytest.raises(OSError, match=r": 3 with another end than the address$"):
        taken(*records, suffix=f"/dns4/x{ONE}/ws")  # longer than any


def test_a_value_may_have_an_equals_sign() -> None:
    assert taken("dnsaddr=/dns4/a=b/tcp/1") == ["/dns4/a=b/tcp/1"]


def test_what_is_skipped_is_counted_if_nothing_is_left() -> None:
    useless: list[str | bytes] = [
        f"dnsaddr={ONE}/p2p/{CAROL}",
        f"dnsaddr={TWO}/p2p/{CAROL}",
        "dnsaddr=nonsense",
        "dnsaddr=",
        f"dnsaddr=/p2p/{BOB}",
        f"dnsaddr={ONE}/madeup",
        b"dnsaddr=/dns4/\xff/tcp/1",
        "dnsaddr",
        "v=spf1 -all",
        b"\xff",
        ONE,
    ]
    counts = "2 of other peers, 6 that are not addresses, 3 for something else"
    with pytest.raises(OSError, match=f"^no TXT record of its name is an address of the peer: {counts}$"):
        taken(*useless)
    assert taken(*useless, f"dnsaddr={ONE}") == [ONE]


def test_no_more_are_taken_than_may_be() -> None:
    others = [f"dnsaddr={ONE}/p2p/{CAROL}"] * 100
    records = [f"dnsaddr=/ip4/1.2.3.4/tcp/{number}" for number in range(1, 1000)]
    assert len(taken(*others, *records)) == MAX_RECORDS
    assert taken(*others, *records[:1] * 100) == [ONE]


# -- name servers --------------------------------------------------------------------------------------


async def test_a_name_is_looked_up_below_its_prefix(server: NameServer) -> None:
    server.add("bob.example", f"{ONE}/p2p/{BOB}", TWO, ttl=123)
    found = await resolve(server)
    assert [str(address) for address in found.addresses] == [ONE, TWO]
    assert found.ttl == 123
    assert server.asked == [("_dnsaddr.bob.example.", "udp")]
    assert await resolve(server, "/dnsaddr/bob.example.") == found


async def test_a_name_is_no_text_with_escapes(server: NameServer) -> None:
    with pytest.raises(OSError, match="no name"):
        await resolve(server, r"/dnsaddr/a\046b.example")
    assert server.asked == [(r"_dnsaddr.a\\046b.example.", "udp")]


async def test_a_name_in_another_script(server: NameServer) -> None:
    server.add("xn--bcher-kva.example", ONE)
    assert (await resolve(server, "/dnsaddr/bücher.example")).addresses == [Multiaddr.parse(ONE)]


async def test_a_record_of_several_strings(server: NameServer) -> None:
    long = f"{ONE}/p2p/{CAROL}/p2p-circuit" + "/tls/sni/" + "x" * 300 + "/ws"
    server.add("bob.example", long)
    assert (await resolve(server)).addresses == [Multiaddr.parse(long)]


async def test_a_chain_of_aliases(server: NameServer) -> None:
    def aliases(question: dns.message.Message) -> bytes:
        response = dns.message.make_response(question)
        name = question.question[0].name.to_text()
        for number in range(8):
            response.answer.append(dns.rrset.from_text(name, 300 - number, "IN", "CNAME", f"alias{number}.example."))
            name = f"alias{number}.example."
        response.answer.append(dns.rrset.from_text(name, 300, "IN", "TXT", f'"dnsaddr={ONE}"'))
        return response.to_wire()

    server.answers["_dnsaddr.bob.example."] = aliases
    assert await resolve(server) == Resolved([Multiaddr.parse(ONE)], 293)


async def test_an_alias_of_itself(server: NameServer) -> None:
    def alias(question: dns.message.Message) -> bytes:
        response = dns.message.make_response(question)
        name = question.question[0].name.to_text()
        response.answer.append(dns.rrset.from_text(name, 300, "IN", "CNAME", name))
        return response.to_wire()

    server.answers["_dnsaddr.bob.example."] = alias
    with pytest.raises(OSError, match=r"^no name server has answered for _dnsaddr\.bob\.example"):
        await resolve(server)


async def test_a_long_answer_comes_by_tcp(server: NameServer) -> None:
    server.add("bob.example", *(f"{ONE}/p2p/{CAROL}" for _ in range(20)), f"{TWO}/p2p/{BOB}")
    assert (await resolve(server)).addresses == [Multiaddr.parse(TWO)]
    assert [by for _, by in server.asked] == ["udp", "tcp"]


async def test_as_many_records_as_an_answer_can_hold(server: NameServer) -> None:
    server.add("bob.example", *(f"/ip4/1.2.3.4/tcp/{number}" for number in range(10_000, 11_500)))
    found = await resolve(server)
    assert len(found.addresses) == MAX_RECORDS
    assert [by for _, by in server.asked] == ["udp", "tcp"]


async def test_ten_thousand_records_are_more_than_an_answer_can_hold(server: NameServer) -> None:
    records = txt(*(f"dnsaddr=/ip4/1.2.3.4/tcp/{number}" for number in range(10_000, 20_000)))
    server.answers["_dnsaddr.bob.example."] = lambda question: records(question)[:65_535]
    with pytest.raises(OSError, match=r"^no name server has answered for _dnsaddr\.bob\.example; .*127\.0\.0\.1"):
        await resolve(server)


async def test_an_unknown_name(server: NameServer) -> None:
    with pytest.raises(OSError, match=r"^there is no name _dnsaddr\.bob\.example$"):
        await resolve(server)


async def test_a_name_without_records(server: NameServer) -> None:
    server.answers["_dnsaddr.bob.example."] = txt()
    with pytest.raises(OSError, match=r"^_dnsaddr\.bob\.example has no TXT record$"):
        await resolve(server)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR"])
async def test_a_name_server_that_fails(server: NameServer, rcode: str) -> None:
    def fail(question: dns.message.Message) -> bytes:
        response = dns.message.make_response(question)
        response.set_rcode(dns.rcode.from_text(rcode))
        return response.to_wire()

    server.answers["_dnsaddr.bob.example."] = fail
    with pytest.raises(OSError, match=rf"_dnsaddr\.bob\.example.*{rcode}") as caught:
        await resolve(server)
    assert len(str(caught.value)) < 150
    assert len(server.asked) == 1


def silence(question: dns.message.Message) -> None:
    return None


def garbage(question: dns.message.Message) -> bytes:
    return b"\xff" * 100


def wrong_id(question: dns.message.Message) -> bytes:
    answer = txt(f"dnsaddr={ONE}")(question)
    return bytes([answer[0] ^ 1]) + answer[1:]


def another_question(question: dns.message.Message) -> bytes:
    other = dns.message.make_query("_dnsaddr.carol.example.", "TXT", id=question.id)
    return txt(f"dnsaddr={ONE}")(other)


def cut_short(question: dns.message.Message) -> bytes:
    return txt(f"dnsaddr={ONE}")(question)[:-5]


@pytest.mark.parametrize("answer", [silence, garbage, wrong_id, another_question, cut_short])
async def test_a_name_server_that_answers_nothing_of_use(server: NameServer, answer: Answer) -> None:
    """What is no answer to the question may be somebody else's: it is passed over."""
    server.answers["_dnsaddr.bob.example."] = answer
    with pytest.raises(OSError, match=r"^no name server has answered for _dnsaddr\.bob\.example within 0\.2 s"):
        await resolve(server, time=0.2)


@pytest.mark.parametrize(
    "answer", [silence, garbage, cut_short, lambda question: b"", lambda question: b"\xff" * 65_535]
)
async def test_a_name_server_that_answers_nothing_of_use_by_tcp(server: NameServer, answer: Answer) -> None:
    def by_udp_then_tcp(question: dns.message.Message) -> bytes | None:
        if server.asked[-1][1] == "tcp":
            return answer(question)
        response = dns.message.make_response(question)
        response.flags |= dns.flags.TC
        return response.to_wire()

    server.answers["_dnsaddr.bob.example."] = by_udp_then_tcp
    with pytest.raises(OSError, match=r"^no name server has answered for _dnsaddr\.bob\.example"):
        await resolve(server, time=0.2)


async def test_the_next_name_server_is_asked(server: NameServer) -> None:
    server.add("bob.example", ONE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        resolver = SystemResolver(TxtRecords([silent.getsockname(), ("127.0.0.1", server.port)], 1.0))
        found = await resolver.resolve(Multiaddr.parse("/dnsaddr/bob.example"), BOB, told=False)
    assert found.addresses == [Multiaddr.parse(ONE)]


async def test_a_machine_without_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(resolver: dns.resolver.Resolver, file: object) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver.Resolver, "read_resolv_conf", read)
    with pytest.raises(OSError, match=r"^this machine is configured with no name server$"):
        await SystemResolver().resolve(Multiaddr.parse("/dnsaddr/bob.example"), BOB, told=False)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 64, "a..example", "."])
async def test_what_is_no_name(name: str) -> None:
    with pytest.raises(OSError, match="not a host name"):
        await SystemResolver().resolve(Multiaddr.parse(f"/dnsaddr/{name}"), BOB, told=False)


async def test_a_name_that_is_too_long_with_its_prefix(server: NameServer) -> None:
    with pytest.raises(OSError, match=r"cannot be looked up: A DNS name is > 255"):
        await resolve(server, "/dnsaddr/" + ".".join(["x" * 62] * 4))
