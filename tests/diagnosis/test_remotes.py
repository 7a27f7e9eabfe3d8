from __future__ import annotations

import pytest

from stronghold_p2p import (
    ConnectionInfo,
    ConnectionLost,
    DialAttempt,
    DialError,
    Direction,
    HolePunchFailed,
    Multiaddr,
    Path,
    PathLimits,
    PathUpgraded,
    PeerId,
    PeerIdentified,
    ProtocolNotSupported,
    RelayRefused,
    RequestTimeout,
    ReservationMade,
)
from stronghold_p2p.diagnosis.facts import Contact, Punch, RelayContact, Target
from stronghold_p2p.diagnosis.remotes import (
    check_address,
    check_direct,
    check_hole_punching,
    check_ping,
    check_relay,
    check_relayed,
    check_requests,
)

PEER = PeerId.parse("12D3KooWHbzMJW3LdgTFjcv7iXKhMMhNAQAfx7tGhe6U3BHNnBKD")
RELAY = PeerId.parse("12D3KooWFvyFjmVNas864oDAkFLMcNrmRwbyKJrJ6sHLEidQFx44")
OWN = PeerId.parse("12D3KooWHcjXRVqdaHJCy3aTG3qXSqd6X1AW4zikTr62EBscHghK")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
PUBLIC, PRIVATE = Multiaddr.parse("/ip4/8.8.8.8/tcp/4001"), Multiaddr.parse("/ip4/10.0.0.1/tcp/4001")
CIRCUIT = Multiaddr.parse(f"{PUBLIC}/p2p/{RELAY}/p2p-circuit")
GONE = DialError(PEER, [DialAttempt(PUBLIC, ConnectionRefusedError(111, "Connection refused"), 0.1)])
HOP = "/libp2p/circuit/relay/0.2.0/hop"
MIB = 1024 * 1024


def identity(*protocols: str, agent: str = "go-libp2p/0.51") -> PeerIdentified:
    return PeerIdentified(PEER, agent, protocols, (), None)


def reached(
    address: Multiaddr = PUBLIC,
    *,
    who: PeerIdentified | None = None,
    closed: bool = False,
    ping: float | Exception | None = None,
) -> Contact:
    path = Path("tcp", address, RELAY if address.is_relayed else None)
    return Contact(Target(PEER, address), 0.25, path, address, identity=who, closed=closed, ping=ping)


def missed(address: Multiaddr = PUBLIC) -> Contact:
    return Contact(Target(PEER, address), 4.0, error=GONE)


def reserved(
    limits: PathLimits | None = None, *, at: Multiaddr = PUBLIC, told: tuple[Multiaddr, ...] = ()
) -> RelayContact:
    return RelayContact(reached(at), ReservationMade(PEER, told, 0.0, limits), 3600.0)


@pytest.mark.parametrize(
    ("relay", "verdict", "says", "advises"),
    [
        (reserved(), "ok", f"answers by tcp at {PUBLIC} after 0.25 s, and gives a reservation for 1 hour; each connection through it has no limits.", None),
        (reserved(PathLimits(600.0, 16 * MIB)), "ok", "has 16 MiB each way and 10 minutes.", None),
        (reserved(PathLimits(None, 16 * MIB)), "ok", "has 16 MiB each way and any time.", None),
        (reserved(PathLimits(120.0, None)), "ok", "has any number of bytes and 2 minutes.", None),
        (reserved(PathLimits(120.0, 128 * 1024)), "note", "has 128 KiB each way and 2 minutes.", "Keep requests and responses below that"),
        (reserved(PathLimits(60.0, 500)), "problem", "has 500 bytes each way and 1 minute. That is too little for requests.", "Have the relay allow more"),
        (reserved(PathLimits(5.0, 20 * 1024)), "note", "has 20 KiB each way and 5 s.", "Keep requests"),
        (reserved(PathLimits(5.0, None)), "note", "and 5 s.", "cut off"),
        (reserved(at=PRIVATE), "note", "It has no public address: only peers in its network can use it.", None),
        (reserved(at=LOOPBACK), "note", "It has a loopback address alone: only peers on this machine can use it.", None),
        (reserved(at=LOOPBACK, told=(PRIVATE,)), "note", "only peers in its network can use it.", None),
        (reserved(at=PRIVATE, told=(CIRCUIT,)), "ok", "has no limits.", None),
        (RelayContact(missed()), "problem", f"The relay {PEER} cannot be reached: {PUBLIC}: connection refused", "have it listen on all interfaces, as at /ip4/0.0.0.0/tcp/4001"),
        (RelayContact(reached(), refusal=RelayRefused(PEER, 200, "it has none to give")), "problem", "gives no reservation: it has none to give, status 200.", "The relay is full"),
        (RelayContact(reached(), refusal=RelayRefused(PEER, 202, "its rules")), "problem", "status 202", "--key FILE"),
        (RelayContact(reached(), refusal=ProtocolNotSupported(HOP)), "problem", f"is no relay, or not for us: it does not offer {HOP}.", "stronghold-p2p relay"),
        (RelayContact(reached(), refusal=ProtocolNotSupported(HOP, 0x1007)), "problem", "but refuses us: the remote refuses the connection", "Have the operator of the relay allow this peer"),
        (RelayContact(reached(), refusal=ConnectionLost("gone")), "problem", "gives no reservation: connection lost: gone.", "another one"),
        (RelayContact(reached()), "problem", "gives no reservation: it did not answer in time.", "another one"),
    ],
    ids=lambda value: value if isinstance(value, str) and "12D3" not in value else "",
)  # fmt: skip
def test_relays(relay: RelayContact, verdict: str, says: str, advises: str | None) -> None:
    found = check_relay(relay)
    assert (found.check, found.verdict) == ("relay", verdict)
    assert says in found.what
    assert (found.advice is None) if advises is None else (advises in str(found.advice))


@pytest.mark.parametrize("status", [200, 202])
def test_a_relay_that_only_connects_us_is_no_problem(status: int) -> None:
    found = check_relay(RelayContact(reached(), refusal=RelayRefused(PEER, status, "so it is")), leads=True)
    assert found.verdict == "note"
    assert found.what.endswith(
        f"but gives no reservation: so it is, status {status}. It connects us to the peer, though."
    )
    assert found.advice


def test_a_lifetime_that_cannot_be_is_left_to_the_check_of_the_clock() -> None:
    made = ReservationMade(PEER, (), 0.0, None)
    assert "gives a reservation; each" in check_relay(RelayContact(reached(), made, -9.0)).what


def test_milliseconds_of_js() -> None:
    contact = reached(who=identity(agent="js-libp2p/3.3"))
    made = ReservationMade(PEER, (), 0.0, PathLimits(120_000.0, 2 * MIB))
    assert "has 2 MiB each way and 2 minutes." in check_relay(RelayContact(contact, made, 3600.0)).what


def test_the_data_of_a_relay() -> None:
    data = check_relay(reserved(PathLimits(600.0, MIB), told=(CIRCUIT,))).data
    assert data == {
        "relay": str(PEER),
        "address": f"{PUBLIC}/p2p/{PEER}",
        "seconds": 0.25,
        "transport": "tcp",
        "dialed": str(PUBLIC),
        "through": None,
        "attempts": [],
        "reservation": {"seconds": 3600, "max_seconds": 600.0, "max_bytes": MIB, "addresses": [str(CIRCUIT)]},
        "refusal": None,
    }


def test_a_peer_that_is_reached_directly() -> None:
    found = check_direct(reached(who=identity()), needed=False)
    assert (found.check, found.verdict) == ("peer", "ok")
    assert found.what == f"The peer answers directly by tcp at {PUBLIC} after 0.25 s."


@pytest.mark.parametrize(("needed", "verdict"), [(True, "problem"), (False, "note")])
def test_a_peer_that_ends_direct_connections(needed: bool, verdict: str) -> None:
    found = check_direct(reached(closed=True), needed=needed)
    assert found.verdict == verdict
    assert found.what.endswith("but it ends direct connections: a ban, a policy, or it wants relays only.")
    assert (found.advice is not None) is needed


@pytest.mark.parametrize(("needed", "verdict"), [(True, "problem"), (False, "note")])
def test_a_peer_that_is_not_reached(needed: bool, verdict: str) -> None:
    found = check_direct(missed(), needed=needed)
    assert found.verdict == verdict
    assert found.what.startswith(f"The peer {PEER} cannot be reached directly: {PUBLIC}: connection refused")
    assert "have it listen on all interfaces, as at /ip4/0.0.0.0/tcp/4001" in str(found.advice)
    assert found.data["attempts"][0]["error"] == "ConnectionRefusedError"
    found = check_relayed(missed(CIRCUIT), needed=needed)
    assert (found.check, found.verdict) == ("peer_by_relay", verdict)
    assert found.what.startswith(f"The peer {PEER} cannot be reached through the relay {RELAY}: ")


def test_a_peer_at_an_address_that_names_no_relay() -> None:
    found = check_relayed(missed(Multiaddr.parse("/p2p-circuit")), needed=True)
    assert found.what.startswith(f"The peer {PEER} cannot be reached through a relay: ")


def test_a_peer_that_is_reached_through_a_relay() -> None:
    found = check_relayed(reached(CIRCUIT, who=identity()), needed=False)
    assert (found.check, found.verdict) == ("peer_by_relay", "ok")
    assert found.what == f"The peer answers through the relay {RELAY} after 0.25 s."
    assert found.data["through"] == str(RELAY)


@pytest.mark.parametrize(("needed", "verdict"), [(True, "problem"), (False, "note")])
def test_a_peer_that_ends_relayed_connections(needed: bool, verdict: str) -> None:
    found = check_relayed(reached(CIRCUIT, closed=True), needed=needed)
    assert found.verdict == verdict
    assert found.what.endswith("but it ends the relayed connection: a ban, or a policy.")
    assert "it may refuse relayed connections, by networks.relayed" in str(found.advice)


def test_an_address_that_the_peer_tells() -> None:
    found = check_address(reached(PRIVATE, who=identity()))
    assert (found.check, found.verdict) == ("peer_address", "ok")
    assert found.what == f"The peer answers at {PRIVATE}, too, which it says of itself."
    found = check_address(missed(PRIVATE))
    assert (found.verdict, found.advice) == ("note", None)
    assert f"can be dialed at {PRIVATE}, but it cannot from here: " in found.what


@pytest.mark.parametrize(
    ("contact", "verdict", "says"),
    [
        (reached(ping=0.0123), "ok", "A round trip to the peer takes 12.3 ms."),
        (reached(CIRCUIT, ping=0.0123), "ok", "A round trip to the peer through the relay takes 12.3 ms."),
        (reached(ping=1.5), "note", "takes 1500.0 ms."),
        (reached(), "unknown", "does not serve pings"),
        (reached(closed=True), "unknown", "the peer has ended the connection"),
        (reached(closed=True, ping=ProtocolNotSupported("/ipfs/ping/1.0.0", 0x1007)), "unknown", "the peer has ended the connection"),
        (reached(ping=ProtocolNotSupported("/ipfs/ping/1.0.0")), "unknown", "does not serve pings"),
        (reached(ping=RequestTimeout(4.0, "ping")), "problem", "did not answer a ping: the ping did not end within 4 s."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_pings(contact: Contact, verdict: str, says: str) -> None:
    found = check_ping(contact)
    assert (found.check, found.verdict) == ("ping", verdict)
    assert says in found.what


@pytest.mark.parametrize(
    ("limits", "ping", "closed", "is_cut"),
    [
        (PathLimits(60.0, 4000), ConnectionLost("gone"), False, True),
        (PathLimits(60.0, 4000), RequestTimeout(4.0, "ping"), False, True),
        (PathLimits(60.0, 4000), None, True, True),
        (PathLimits(2.0, None), ConnectionLost("gone"), False, True),
        (PathLimits(120.0, 128 * 1024), ConnectionLost("gone"), False, False),
        (PathLimits(120.0, 128 * 1024), None, True, False),
        (None, ConnectionLost("gone"), False, False),
    ],
)
def test_a_connection_that_ends_by_the_limit_of_its_relay(
    limits: PathLimits | None, ping: float | Exception | None, closed: bool, is_cut: bool
) -> None:
    path = Path("tcp", CIRCUIT, RELAY, limits)
    who = identity("/stronghold-p2p/1.0.0", "/ipfs/ping/1.0.0")
    contact = Contact(Target(PEER, CIRCUIT), 0.25, path, CIRCUIT, identity=who, closed=closed, ping=ping)
    for one in (check_ping(contact), check_requests(contact, OWN)):
        assert ("the relay gives it only" in one.what) is is_cut
        assert ("Have the relay allow more" in str(one.advice)) is is_cut
        assert not is_cut or one.verdict == "problem"
    assert ("its limit ends the connection early" in check_relayed(contact, needed=True).what) is is_cut


@pytest.mark.parametrize(
    ("contact", "verdict", "says", "advises"),
    [
        (reached(who=identity("/stronghold-p2p/1.0.0", "/ipfs/ping/1.0.0")), "ok", "The peer is go-libp2p/0.51, and takes requests of ours as json, which it may", None),
        (reached(who=identity("/stronghold-p2p/1.0.0", "/stronghold-p2p/raw/1.0.0")), "ok", "as json and raw", None),
        (reached(who=identity("/ipfs/ping/1.0.0", agent="")), "problem", "The peer is a program without a name, and offers no request protocol to us: its firewall", f"allow {OWN}"),
        (reached(closed=True), "problem", "closed the connection before it answered anything", f"allow {OWN}"),
        (reached(who=identity("/stronghold-p2p/1.0.0"), closed=True), "problem", "before it answered anything", f"allow {OWN}"),
        (reached(), "unknown", "does not say what it offers", f"stronghold-p2p request {PUBLIC}/p2p/{PEER} JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) and "12D3" not in value else "",
)  # fmt: skip
def test_requests(contact: Contact, verdict: str, says: str, advises: str | None) -> None:
    found = check_requests(contact, OWN)
    assert (found.check, found.verdict) == ("requests", verdict)
    assert says in found.what
    assert (found.advice is None) if advises is None else (advises in str(found.advice))


@pytest.mark.parametrize("contact", [reached(closed=True), reached(who=identity("/ipfs/ping/1.0.0"))])
def test_nobody_is_told_to_allow_an_id_that_is_thrown_away(contact: Contact) -> None:
    advice = str(check_requests(contact, OWN, is_kept=False).advice)
    assert advice.startswith("First give the key of your peer here, --key FILE:")
    assert str(OWN) not in advice


def test_requests_need_more_than_a_tiny_limit() -> None:
    who = identity("/stronghold-p2p/1.0.0")
    for count, verdict in ((4000, "problem"), (128 * 1024, "ok")):
        path = Path("tcp", CIRCUIT, RELAY, PathLimits(60.0, count))
        contact = Contact(Target(PEER, CIRCUIT), 0.25, path, CIRCUIT, identity=who, ping=0.1)
        assert check_requests(contact, OWN).verdict == verdict
        assert check_ping(contact).verdict == "ok"


def test_what_a_remote_says_of_itself_is_cut() -> None:
    found = check_requests(reached(who=identity(*["/x" * 500] * 200, agent="a" * 1000)), OWN)
    assert len(found.what) < 400
    assert len(found.data["protocols"]) == 64
    assert max(map(len, [found.data["agent"], *found.data["protocols"]])) == 200


DIRECT = ConnectionInfo(PEER, PUBLIC, Direction.INBOUND, 0.0, 1, Path("tcp"))
UPGRADED = Punch(PathUpgraded(DIRECT, Path("tcp", CIRCUIT, RELAY)))
FAILED = Punch(HolePunchFailed(PEER, GONE, 1, last=False))
CUT = Punch(HolePunchFailed(PEER, ConnectionLost("gone"), 1, last=False))


@pytest.mark.parametrize(
    ("who", "punch", "verdict", "says"),
    [
        (identity("/libp2p/dcutr"), UPGRADED, "ok", f"became a direct one, by hole punching, to {PUBLIC}."),
        (
            identity("/libp2p/dcutr"),
            FAILED,
            "note",
            f"No hole could be punched to the peer: {PUBLIC}: connection refused",
        ),
        (identity("/libp2p/dcutr"), CUT, "note", "No hole could be punched to the peer: connection lost: gone."),
        (identity("/libp2p/dcutr"), Punch(None), "unknown", "did not begin with it in time"),
        (identity("/libp2p/dcutr"), None, "note", "we have no public address"),
        (identity(), None, "note", "does not offer hole punching"),
        (None, None, "unknown", "does not say whether"),
    ],
    ids=["upgraded", "failed", "cut", "late", "no address", "not offered", "unidentified"],
)
def test_hole_punching(who: PeerIdentified | None, punch: Punch | None, verdict: str, says: str) -> None:
    found = check_hole_punching(reached(CIRCUIT, who=who), punch)
    assert (found.check, found.verdict) == ("hole_punching", verdict)
    assert says in found.what
    assert (found.advice is not None) is (verdict == "note")
