from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import dns

from stronghold_p2p import Keypair, Multiaddr
from stronghold_p2p.discovery import packets
from stronghold_p2p.discovery.packets import Announcement, Answer, Query
from stronghold_p2p.discovery.texts import sightings

BOB = Keypair.generate().peer_id
ADDRESSES = ["/ip4/192.168.1.7/tcp/4001", "/ip6/fd00::7/tcp/4001", "/ip4/192.168.1.7/udp/4001/quic-v1"]
SERVICE = dns.SERVICE + "."


def announced(*addresses: str, name: str = "n" * 63) -> Announcement:
    made = packets.announcement(name, [Multiaddr.parse(address) for address in addresses], BOB)
    assert made is not None
    return made


def addresses_in(packet: bytes) -> list[str]:
    assert packets.concerns_us(packet)
    answer = packets.read(packet)
    assert isinstance(answer, Answer)
    found = sightings(answer.texts, ip_address("192.168.1.7"), is_local=False)
    assert all(sighting.peer == BOB for sighting in found)
    return [str(sighting.address) for sighting in found]


@pytest.mark.parametrize("answer", [dns.rust_answer, dns.js_answer, dns.go_answer, dns.py_answer])
def test_the_answers_of_other_implementations(answer: Callable[[list[str]], bytes]) -> None:
    assert addresses_in(answer([f"{address}/p2p/{BOB}" for address in ADDRESSES])) == ADDRESSES


def test_our_own_answer_is_one_packet_that_all_can_read() -> None:
    """rust: the text stands among the additional records of the pointer's packet; go: one record of it, with an address
    for its host; js: the pointer is the last one."""
    packet = announced(*ADDRESSES[:2]).answer
    assert packet[2:12] == bytes([0x84, 0, 0, 0, 0, 1, 0, 0, 0, 4])
    assert packet.count(b"dnsaddr=") == 2
    assert addresses_in(packet) == ADDRESSES[:2]
    host = b"\x3f" + b"n" * 63
    assert packet.count(host) == 2, "the instance, and the host with its address"
    assert bytes((192, 168, 1, 7)) in packet
    assert ip_address("fd00::7").packed in packet
    assert (4001).to_bytes(2) in packet


def test_the_largest_answer_fits_into_every_network() -> None:
    long = [f"/ip6/2001:db8:1111:2222:3333:4444:5555:{number}/tcp/40000/tls/ws" for number in range(20)]
    answer = announced("/ip4/192.168.100.100/tcp/40000", *long).answer
    assert 1300 < len(answer) <= 1400 - 40 - 8, "beside the headers of IPv6 and UDP"


def test_nothing_to_tell_is_no_announcement() -> None:
    assert packets.announcement("n" * 63, [], BOB) is None


def test_a_goodbye_withdraws_all_that_is_not_told_anew() -> None:
    before, after = announced(*ADDRESSES[:2]), announced(*ADDRESSES[1:2], name="m" * 40)
    for packet, gone in (
        (packets.goodbye(before), ADDRESSES[:2]),
        (packets.goodbye(before, but=after), ADDRESSES[:1]),
        (packets.goodbye(before, but=before), []),
    ):
        answer = packets.read(packet)
        assert isinstance(answer, Answer)
        ((instance, _, ttl),) = answer.texts
        assert (instance, ttl) == (before.instance, 0)
        assert addresses_in(packet) == gone


def test_a_question_names_the_service_first_and_then_what_is_known() -> None:
    known = [(f"{letter * 63}.{SERVICE}", 100) for letter in "abcdefghijklmnop"]
    packet = packets.encode_query(known)
    assert packet[2:12] == bytes([0, 0, 0, 1, 0, len(known), 0, 0, 0, 0])
    assert len(packet) <= 1400 - 48
    assert packet[12:].startswith(dns.question(dns.SERVICE))
    assert packets.read(packet) == Query(frozenset({SERVICE}), frozenset(name for name, _ in known))


def test_only_what_is_known_for_half_of_its_time_is_known() -> None:
    known = {"a": 59, "b": 60, "c": 4500}
    pointers = [dns.record(dns.SERVICE, dns.PTR, dns.name(f"{name}.{dns.SERVICE}"), ttl) for name, ttl in known.items()]
    query = packets.read(dns.packet(questions=[dns.question(dns.SERVICE.upper())], answers=pointers))
    assert query == Query(frozenset({SERVICE}), frozenset({f"b.{SERVICE}", f"c.{SERVICE}"}))


@pytest.mark.parametrize("klass", [1, 255, 0x8001], ids=["IN", "any", "unicast"])
def test_a_question_in_any_form(klass: int) -> None:
    query = packets.read(dns.packet(questions=[dns.question(dns.SERVICE, klass=klass)], id=7))
    assert query == Query(frozenset({SERVICE}), frozenset())


def test_questions_of_another_class_and_records_of_others_are_not_for_us() -> None:
    query = packets.read(dns.packet(questions=[dns.question(dns.SERVICE, klass=3)]))
    assert query == Query(frozenset(), frozenset())
    other = dns.record("printer._ipp._tcp.local", dns.TXT, dns.text(f"dnsaddr={ADDRESSES[0]}/p2p/{BOB}"))
    chaos = dns.record(f"x.{dns.SERVICE}", dns.TXT, dns.text(f"dnsaddr={ADDRESSES[0]}/p2p/{BOB}"), klass=3)
    assert packets.read(dns.packet(answers=[other, chaos])) == Answer([])
    assert not packets.concerns_us(dns.packet(answers=[other]))


def test_the_question_which_services_there_are() -> None:
    packet = dns.packet(questions=[dns.question("_services._dns-sd._udp.local")])
    assert packets.concerns_us(packet)
    assert packets.read(packet) == Query(frozenset({packets.TYPES}), frozenset())
    assert packets.types()[12:].endswith(b"\x04_p2p\xc0" + packets.types()[-1:])
    assert packets.read(packets.types()) == Answer([])


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(11),
        dns.packet(questions=[b"\xc0\x0c\0\x0c\0\x01"]),
        dns.packet(questions=[b"\x3fcut short"]),
    ],
    ids=["empty", "short", "a pointer to itself", "a name that is cut short"],
)
def test_what_is_no_packet_says_nothing(packet: bytes) -> None:
    assert packets.read(packet) is None


def mutated(data: st.DataObject, packet: bytes) -> bytes:
    changed = bytearray(packet)
    for _ in range(data.draw(st.integers(0, 8))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed[: data.draw(st.integers(0, len(changed)))])


@given(st.data())
def test_no_packet_raises(data: st.DataObject) -> None:
    whole = st.sampled_from(
        [
            dns.rust_answer([f"{ADDRESSES[0]}/p2p/{BOB}"]),
            announced(*ADDRESSES[:2]).answer,
            packets.encode_query([(f"a.{SERVICE}", 100)]),
        ]
    )
    packet = data.draw(st.one_of(st.binary(max_size=9000), st.builds(mutated, st.just(data), whole)))
    message = packets.read(packet)
    if isinstance(message, Answer):
        sightings(message.texts, ip_address("192.168.1.7"), is_local=False)
