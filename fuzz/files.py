"""Files of the user, which may be damaged: an error says so, nothing else happens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fuzz.target import KEYPAIRS, target
from stronghold_p2p.addresses import export
from stronghold_p2p.addresses.entry import AddressSource, NamedAddress
from stronghold_p2p.cli.audit import chain
from stronghold_p2p.errors import AddressBookError, DecodeError, KeyFileError, PolicyError, StateError
from stronghold_p2p.events import Direction
from stronghold_p2p.firewall.policy import Policy
from stronghold_p2p.firewall.rule import Rule
from stronghold_p2p.identity import Keypair
from stronghold_p2p.multiaddr import Multiaddr
from stronghold_p2p.store.address_tables import AddressTables
from stronghold_p2p.store.database import Database
from stronghold_p2p.store.firewall_tables import FirewallTables
from stronghold_p2p.store.name_table import NameTable

__all__ = ["TARGETS"]

US, REMOTE = (keypair.peer_id for keypair in KEYPAIRS)
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
NAMED = NamedAddress(REMOTE, ADDRESS, AddressSource.GIVEN, None, ("192.0.2.1/32",), 1.0)


@contextmanager
def scratch(data: bytes | bytearray | None = None) -> Iterator[Path]:
    """A file with ``data`` (None: not there yet), for what reads files by their path; in memory, where there is such a folder.
    A folder for all would end with the first process that does."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder, "file")
        if data is not None:
            path.write_bytes(data)
        yield path


def policy_seeds() -> Iterator[bytes]:
    yield f"""
mode = "observe"
[default]
inbound = "reject"
outbound = {{ allow = ["A", "B"], until = 2030-01-01T00:00:00Z }}
[peers.bob]
id = "{REMOTE}"
inbound = {{ allow = ["A"], ask = ["B"] }}
[groups]
all = ["bob"]
[groups.guests]
peers = ["{US}"]
inbound = "allow"
per_second = 1
[networks]
allow = ["10.0.0.0/8", "2001:db8::/32"]
deny = ["10.9.0.0/16"]
relayed = "allow"
[relay]
reserve = ["all"]
[limits]
requests_in_flight = 4
requests_per_second = 2.5
[types.A]
per_second = 0.2
max_bytes = 4096
[approval]
approvers = ["bob"]
[[tests]]
peer = "bob"
type = "A"
expect = "allow"
""".encode()
    yield b"[default]\ninbound = 'ask'\n"
    yield b"[default]\ninbound = " + b"[" * 3000
    yield b"a." * 300 + b"b = 1"


@target("policy", PolicyError, UnicodeDecodeError, seeds=policy_seeds)
def fuzz_policy(data: bytes) -> None:
    policy = Policy.parse(data.decode(), types=["A", "B"])
    policy.verdict(REMOTE, Direction.INBOUND, "A")
    _ = policy.rule_lines


def key_file_seeds() -> Iterator[bytes]:
    for form in ("pem", "libp2p"):
        with scratch() as path:
            KEYPAIRS[0].save(path, format=form)
            yield path.read_bytes()
    yield b"-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n"
    yield b"\xff\xfe-----BEGIN"


@target("key-file", KeyFileError, seeds=key_file_seeds)
def fuzz_key_file(data: bytes) -> None:
    with scratch(data) as path:
        pair = Keypair.load(path)
    assert Keypair.from_protobuf(pair.to_protobuf()).peer_id == pair.peer_id


def state_file() -> bytes:
    with scratch() as path:
        with closing(Database(path)) as database:
            FirewallTables(database).set_rule(REMOTE, Direction.INBOUND, Rule.restricted(allow={"A"}))
            FirewallTables(database).set_banned(US, True)
            AddressTables(database).write([NAMED], [])
            NameTable(database).set(REMOTE, "bob")
        return path.read_bytes()


STATE = state_file()


def state_seeds() -> Iterator[bytes]:
    yield b""
    yield b"\0\0\0\xff"
    yield b"\0\x60\0\0\0\x30\2\xff\x10\0\1"
    for text in (b'"allow"', b'{"rule":"x"}', b"[" * 30):
        yield b"\xff" + text


@target("state-file", StateError, seeds=state_seeds, max_size=256)
def fuzz_state_file(data: bytes) -> None:
    """A state file with damage: each four bytes are a place and what stands there. Or, behind 0xFF, with another text as a
    rule and as a name."""
    damaged = bytearray(STATE)
    if data[:1] != b"\xff":
        for at in range(0, len(data) - 3, 4):
            place = int.from_bytes(data[at : at + 3]) % len(damaged)
            damaged[place] = data[at + 3]
    with scratch(damaged) as path, closing(Database(path, create=False)) as database:
        if data[:1] == b"\xff":
            with database.write() as connection:
                text = data[1:].decode("latin-1")
                connection.execute("UPDATE rules SET rule = ?", (text,))
                connection.execute("UPDATE names SET name = ?, peer = ?", (text, data[1:]))
                connection.execute("UPDATE addresses SET told_by = ?, address = ?", (text, data[1:]))
        errors = []
        for read in (
            lambda: FirewallTables(database).read(),
            lambda: AddressTables(database).read(10, 10),
            lambda: NameTable(database).read(),
        ):
            try:
                read()
            except StateError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def export_seeds() -> Iterator[bytes]:
    yield export.encode([NAMED], [b"record"])
    yield export.encode([], [])
    yield b'{"version":2}'
    yield b'{"version":1,"addresses":[' + b"[" * 2000


@target("address-export", AddressBookError, seeds=export_seeds)
def fuzz_export(data: bytes) -> None:
    book = export.decode(data, 16)
    assert max(len(book.addresses), len(book.records)) <= 16
    export.decode(export.encode(book.addresses, book.records), 16)


def audit_seeds() -> Iterator[bytes]:
    yield chain.chained(chain.BEGINNING, {"time": "t", "event": "begin"}).line
    yield chain.signed_head(chain.BEGINNING, "t", KEYPAIRS[0]).line


@target("audit", DecodeError, seeds=audit_seeds)
def fuzz_audit(data: bytes) -> None:
    for line in data.split(b"\n"):
        entry = chain.parse(line)
        if entry is not None:
            entry.follows(bytes(32))
            entry.signer(bytes(32))


TARGETS = (fuzz_policy, fuzz_key_file, fuzz_state_file, fuzz_export, fuzz_audit)
