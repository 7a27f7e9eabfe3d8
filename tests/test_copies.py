"""Values survive copying, pickling, and the way to another process; what is told by identity stays the same object."""

from __future__ import annotations

import copy
import dataclasses
import pathlib
import pickle
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from ipaddress import ip_network
from multiprocessing import get_context
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from stronghold_p2p import (
    AddressBookError,
    AddressEntry,
    AddressesChanged,
    AddressOrigin,
    AddressReachability,
    AddressSource,
    BanChanged,
    CertificateError,
    ClosedError,
    Config,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionInfo,
    ConnectionLost,
    DecodeError,
    DialAttempt,
    DialError,
    Direction,
    Dropped,
    EncodeError,
    FirewallDecision,
    FirewallRequestEnded,
    FirewallRequestOpened,
    FirewallRules,
    HandshakeError,
    HolePunchFailed,
    InboundConnectionFailed,
    InvalidAddress,
    InvalidName,
    KeepFailed,
    KeyFileError,
    Keypair,
    KeyType,
    LimitExceeded,
    LimitReached,
    Listener,
    ListenerClosed,
    ListenError,
    Multiaddr,
    MuxerError,
    NameChanged,
    NegotiationError,
    NewListener,
    NoResponse,
    NotPermitted,
    Path,
    PathLimits,
    PathUpgraded,
    PeerDiscovered,
    PeerExpired,
    PeerId,
    PeerIdentified,
    PeerIdMismatch,
    Policy,
    PolicyError,
    PolicyFailed,
    PolicyLoaded,
    PortMapped,
    PortMappingError,
    PortMappingFailed,
    ProtocolNotSupported,
    Reachability,
    ReachabilityChanged,
    RelayRefused,
    RemoteProtocolError,
    RequestFailed,
    RequestHandled,
    RequestTimeout,
    ReservationLost,
    ReservationMade,
    Rule,
    RuleChanged,
    SignedAnswer,
    StateError,
    StateFailed,
    StreamReset,
    StrongholdError,
    TlsError,
    WebSocketError,
    errors,
)
from stronghold_p2p.events import Event
from stronghold_p2p.firewall.admission import AdmissionRules

PAIR = Keypair.generate()
PEER, OTHER = PAIR.peer_id, Keypair.generate().peer_id
ADDRESS = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")


def kind(value: object) -> str:
    """What a parameter is called. The workers of a parallel run must agree, and keys are others in each."""
    return type(value).__name__


def restored(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


WAYS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda value: pickle.loads(pickle.dumps(value, 2)),
    lambda value: pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)),
]
every_way = pytest.mark.parametrize("way", WAYS, ids=["copy", "deepcopy", "lowest pickle", "highest pickle"])


# -- errors --------------------------------------------------------------------------------------------

ERRORS = [
    StrongholdError("anything"),
    ClosedError(),
    ClosedError("we have closed the stream"),
    InvalidAddress("/x", "unknown"),
    InvalidName("ops", "is the name of a group in the policy"),
    ListenError(ADDRESS, "in use"),
    KeyFileError("a.pem", "missing"),
    PolicyError("p.toml", 7, "default.inbond", "unknown key"),
    PortMappingError("PCP", "no answer", answered=False),
    CertificateError("a.pem", "no such file or directory"),
    StateError("s.db", "is damaged"),
    AddressBookError("expected version 1, got 2"),
    EncodeError("too large"),
    NotPermitted(PEER, "it is banned"),
    NotPermitted(None, "10.0.0.1 is in the denied network 10.0.0.0/8"),
    LimitExceeded("max_connections"),
    DialError(PEER),
    DialError(PEER, reason="because"),
    DialError(
        PEER, [DialAttempt(ADDRESS, RequestTimeout(1.0), 1.0), DialAttempt(ADDRESS, OSError(111, "refused"), 0.25)]
    ),
    RequestTimeout(5.0),
    RequestTimeout(0.5, "ping"),
    ConnectionLost(),
    ConnectionLost("cut"),
    ProtocolNotSupported("/a"),
    NoResponse(PEER),
    StreamReset(),
    StreamReset(7),
    RemoteProtocolError("/a", "wrong"),
    NegotiationError("wrong"),
    RelayRefused(OTHER, 204, "the peer has no reservation there"),
    TlsError("that has expired"),
    WebSocketError("closed"),
    HandshakeError("wrong"),
    PeerIdMismatch(PEER, OTHER),
    MuxerError("wrong", 2),
    DecodeError("json", "wrong"),
]


def attributes(error: BaseException) -> dict[str, Any]:
    """By their repr: exceptions among them are equal to none but themselves."""
    return {name: repr(value) for name, value in vars(error).items()}


def same_error(copied: BaseException, error: BaseException) -> bool:
    return (type(copied), str(copied), copied.args, attributes(copied)) == (
        type(error),
        str(error),
        error.args,
        attributes(error),
    )


def test_every_error_is_tried() -> None:
    assert {type(error).__name__ for error in ERRORS} == set(errors.__all__)


@every_way
@pytest.mark.parametrize("error", ERRORS, ids=kind)
def test_errors(error: StrongholdError, way: Callable[[Any], Any]) -> None:
    assert same_error(way(error), error)
    assert same_error(way(way(error)), error)


@every_way
def test_what_was_added_to_an_error(way: Callable[[Any], Any]) -> None:
    error = RequestTimeout(5.0)
    error.add_note("asked three times")
    assert way(error).__notes__ == ["asked three times"]


class OwnError(ListenError):
    """A user's, with arguments of its own."""

    def __init__(self, port: int) -> None:
        super().__init__(f"/ip4/0.0.0.0/tcp/{port}", "in use")
        self.port = port


@every_way
def test_errors_of_a_users_own(way: Callable[[Any], Any]) -> None:
    assert same_error(way(OwnError(4001)), OwnError(4001))


def test_an_error_in_a_group() -> None:
    group = ExceptionGroup("both", [RequestTimeout(5.0), StreamReset(7)])
    assert list(map(str, restored(group).exceptions)) == list(map(str, group.exceptions))


WORKER = """
import asyncio
from stronghold_p2p import Config, FirewallRules, StrongholdP2p

def ask():
    return asyncio.run(_ask())

async def _ask():
    async with StrongholdP2p(firewall=FirewallRules.allow_all(), config=Config(close_timeout=0.01)) as bob:
        bob.on_request(lambda request: asyncio.Event().wait())
        async with StrongholdP2p() as alice:
            address = await bob.listen()
            await alice.connect(address)
            await alice.send_request(address, 1, timeout=0.02)
"""


def test_a_request_that_times_out_in_a_process_pool(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "asking_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    import asking_worker  # type: ignore[import-not-found]

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(RequestTimeout) as caught:
            pool.submit(asking_worker.ask).result()
        assert pool.submit(PeerId.parse, str(PEER)).result() == PEER  # the pool is not broken
    assert same_error(caught.value, RequestTimeout(0.02))
    assert "send_request" in "".join(traceback.format_exception(caught.value))  # its cause, as Python keeps it


# -- the firewall --------------------------------------------------------------------------------------

RULES = FirewallRules(
    inbound=Rule.REJECT_ALL,
    outbound=None,
    peers={PEER: (Rule.restricted(allow={"Ping", "Read"}), Rule.ASK), OTHER: (None, Rule.ALLOW_ALL)},
)
NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)
DATED = FirewallRules(
    inbound=Rule.ASK.replace(strict=True, reasons=True),
    peers={PEER: (Rule.ASK.lend("Sign", NOON), Rule.REJECT_ALL.replace(until=NOON))},
)
POLICY = Policy(
    rules=RULES,
    names={PEER: "alice"},
    admission=AdmissionRules(deny_networks=(ip_network("10.0.0.0/8"),), banned=frozenset({OTHER})),
    requests_in_flight=7,
)


@every_way
@pytest.mark.parametrize("rule", [Rule.ALLOW_ALL, Rule.REJECT_ALL, Rule.ASK], ids=repr)
def test_rules_that_are_told_by_identity(rule: Rule, way: Callable[[Any], Any]) -> None:
    assert way(rule) is rule
    assert way([rule])[0] is rule


def everybody(*_: object) -> bool:
    return True


@every_way
@pytest.mark.parametrize(
    "rule", [Rule.restricted(allow={"Ping"}), Rule.restricted(everybody)], ids=["types", "predicate"]
)
def test_restricted_rules(rule: Rule, way: Callable[[Any], Any]) -> None:
    assert way(rule) == rule
    assert way(rule) in {rule}


@every_way
@pytest.mark.parametrize("value", [RULES, DATED, POLICY, Policy(), FirewallRules.allow_all()], ids=kind)
def test_rules_and_policies(value: Any, way: Callable[[Any], Any]) -> None:
    copied = way(value)
    assert copied == value
    assert hash(copied) == hash(value)
    assert repr(copied) == repr(value)


@every_way
def test_a_copy_is_as_immutable(way: Callable[[Any], Any]) -> None:
    copied = way(POLICY)
    for mapping in copied.names, copied.rules.peers:
        with pytest.raises(TypeError):
            mapping[OTHER] = "bob"
    with pytest.raises(dataclasses.FrozenInstanceError):
        copied.rules.inbound = None
    assert copied.rules.peers[PEER][1] is Rule.ASK


def test_as_plain_data() -> None:
    assert dataclasses.asdict(POLICY)["rules"]["peers"] == RULES.peers
    assert dataclasses.replace(RULES, inbound=None).peers == RULES.peers


# -- identities and addresses --------------------------------------------------------------------------

PAIRS = [
    PAIR,
    Keypair(rsa.generate_private_key(65537, 2048)),
    Keypair(ec.generate_private_key(ec.SECP256R1())),
    Keypair(ec.generate_private_key(ec.SECP256K1())),
]


@every_way
@pytest.mark.parametrize("pair", PAIRS, ids=kind)
def test_public_keys(pair: Keypair, way: Callable[[Any], Any]) -> None:
    copied = way(pair.public_key)
    assert copied == pair.public_key
    assert (copied.type, copied.peer_id) == (pair.public_key.type, pair.peer_id)
    assert copied.verify(pair.sign(b"data"), b"data")


@every_way
@pytest.mark.parametrize(
    "value", [PEER, ADDRESS, ADDRESS.with_peer(PEER), *KeyType, *Direction, Direction.BOTH, *AddressSource]
)
def test_names(value: Any, way: Callable[[Any], Any]) -> None:
    assert way(value) == value
    assert {way(value): 1}[value] == 1
    assert str(way(value)) == str(value)
    if isinstance(value, Direction | AddressSource):
        assert way(value) is value


def test_a_private_key_is_copied_but_never_pickled() -> None:
    assert copy.copy(PAIR) is PAIR
    assert copy.deepcopy([PAIR]) == [PAIR]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="to_protobuf") as caught:
            pickle.dumps({"pair": PAIR}, protocol)
        assert PAIR.to_protobuf().hex() not in str(caught.value)


# -- configuration and events --------------------------------------------------------------------------

PATH = Path("tcp", ADDRESS, OTHER, PathLimits(120.0, None))
INFO = ConnectionInfo(PEER, ADDRESS, Direction.INBOUND, 1.5, 3, PATH)
ENTRY = AddressEntry(ADDRESS, AddressSource.MDNS, expires=2.5, last_success=1.5)
LISTENER = Listener(ADDRESS, (ADDRESS.with_peer(PEER),))
EVENTS: list[Event] = [
    ConnectionEstablished(INFO),
    ConnectionClosed(INFO, None),
    ConnectionClosed(INFO, ConnectionLost("cut")),
    PathUpgraded(INFO, Path("tcp", relay=PEER)),
    HolePunchFailed(PEER, DialError(PEER), attempt=1, last=True),
    InboundConnectionFailed(ADDRESS, PeerIdMismatch(PEER, OTHER)),
    KeepFailed(PEER, ConnectionLost("cut"), 1.5),
    LimitReached("max_inbound_connections", "192.0.2.1/32", 3),
    NewListener(LISTENER),
    ReservationMade(OTHER, (ADDRESS,), 1.5, PathLimits(None, 5)),
    ReservationLost(OTHER, ConnectionLost("cut")),
    ListenerClosed(LISTENER),
    PortMapped(ADDRESS, "PCP", 1.5),
    PortMappingFailed(ADDRESS, "no answer"),
    AddressesChanged((ADDRESS,), ()),
    ReachabilityChanged(
        ADDRESS,
        AddressReachability(Reachability.REACHABLE, AddressOrigin.MAPPED, (PEER,), (), 5.0),
        Reachability.UNKNOWN,
    ),
    PeerIdentified(PEER, "go-libp2p/0.51", ("/a", "/b"), (ADDRESS,), None),
    PeerDiscovered(PEER, (ADDRESS,)),
    PeerExpired(PEER),
    RequestFailed(PEER, RequestTimeout(1.5, "handler")),
    FirewallDecision(
        9,
        PEER,
        "bob",
        Direction.BOTH,
        "Ping",
        "Rule.ASK",
        "policy peer",
        12,
        True,
        "person",
        "approved",
        0.5,
        ADDRESS,
        "no",
        (SignedAnswer(OTHER, True, "type", 60.0, None, b"signed"),),
        False,
        "view",
    ),
    RequestHandled(9, PEER, "responded", 0.5),
    RuleChanged(PEER, Direction.INBOUND, "Rule.ASK"),
    BanChanged(PEER, True),
    NameChanged(PEER, "bob"),
    FirewallRequestOpened(7, PEER, None, Direction.INBOUND, "Ping", "request"),
    FirewallRequestEnded(7, PEER, "bob", Direction.INBOUND, "Ping", "request", "rejected", "person", "not today"),
    PolicyLoaded("p.toml"),
    PolicyFailed(PolicyError("p.toml", 7, "a.b", "wrong")),
    StateFailed(StateError("s.db", "is damaged")),
    Dropped(3),
]


def test_every_event_is_tried() -> None:
    assert {type(event) for event in EVENTS} == set(Event.__args__)


@every_way
@pytest.mark.parametrize("value", [Config(), Config(request_timeout=30), INFO, LISTENER, ENTRY, *EVENTS], ids=kind)
def test_configuration_and_events(value: Any, way: Callable[[Any], Any]) -> None:
    copied = way(value)
    assert type(copied) is type(value)
    for field in dataclasses.fields(value):
        left, right = getattr(copied, field.name), getattr(value, field.name)
        assert same_error(left, right) if isinstance(right, Exception) else left == right
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(copied, dataclasses.fields(value)[0].name, None)
