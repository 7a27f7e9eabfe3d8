"""Packages import what is declared here, what is pure does no I/O, and modules stay short."""

from __future__ import annotations

import ast
import functools
import graphlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

Node = TypeVar("Node", ast.Try, ast.ExceptHandler, ast.AsyncWith)

ROOT = Path(__file__).parents[1] / "src" / "stronghold_p2p"
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if not path.name.endswith("_pb2.py")]

FLAT = {
    "errors",
    "config",
    "events",
    "event_hub",
    "arguments",
    "compiling",
    "ending",
    "frozen",
    "generics",
    "identity",
    "key_file",
    "limit_fields",
    "logs",
    "loops",
    "multiaddr",
    "reset_codes",
    "version",
}
"""Small, complete modules that any part may use."""

EDGES = {
    "__main__": {"cli": "the command line"},
    "__init__": {"public": "imported with the first name that is used"},
    "public": {
        "addresses": "public names: AddressBook and its entries",
        "firewall": "public names: rules, questions, policies",
        "peer": "public name: StrongholdP2p",
        "protocols": "public name: RelayServer",
        "requests": "public name: Request",
        "transport": "public name: Stream",
    },
    "cli": {
        "addresses": "whether a target is a peer id alone",
        "diagnosis": "what `doctor` prints",
        "firewall": "rules from options, questions on the terminal",
        "peer": "what every command runs",
        "protocols": "perf, as the libp2p project measures it; answers of approvers",
        "requests": "what a handler gets; the names of the codecs",
        "store": "`firewall list` and its like edit a state file",
        "wire": "the heads of an audit are signed envelopes",
    },
    "diagnosis": {
        "addresses": "targets of calls",
        "peer": "connects, listens and announces by peers of its own",
        "port_mapping": "the router",
        "protocols": "the relay of a circuit's address",
        "requests": "the protocols that peers offer each other",
        "swarm": "the scope of addresses",
        "transport": "interfaces and names of this machine",
    },
    "peer": {
        "addresses": "where peers are",
        "firewall": "rules, questions, policy",
        "protocols": "the limits of a relay",
        "reach": "how it is reached",
        "requests": "sends and answers",
        "transport": "streams of a user's own protocols",
        "wiring": "what it consists of",
    },
    "reach": {
        "addresses": "targets of dials, and addresses of our own",
        "firewall": "the modes of relays",
        "transport": "the type of a listener's certificate",
        "wiring": "listeners, relays and kept peers",
    },
    "wiring": {
        "addresses": "where peers are",
        "discovery": "finds peers on the local network, if it is to",
        "firewall": "rules, questions, admission",
        "firewall_sources": "policy and state file, in force",
        "port_mapping": "has a router forward ports",
        "protocols": "identify and ping",
        "relaying": "circuits, in every role",
        "requests": "sends and answers",
        "resources": "one for all parts",
        "store": "the state file, and the address book in it",
        "streams": "serves and opens those of a user's own protocols",
        "swarm": "connections",
        "transport": "the transports, and streams of a user's own protocols",
    },
    "relaying": {
        "addresses": "where relays are, and which lead to whom",
        "protocols": "the relay, its clients, and circuits",
        "resources": "who has reached a limit of the relay, by network",
        "transport": "connections to relays",
    },
    "streams": {
        "firewall": "each stream passes the gate, within its peer's traffic",
        "protocols": "runs a handler",
        "transport": "connections, and streams on them",
    },
    "firewall_sources": {
        "firewall": "what they feed: rules, admission, traffic limits",
        "store": "rules and bans outlive a restart",
    },
    "requests": {
        "encoding": "a message's length is a varint",
        "firewall": "every request passes the gate, within its peer's traffic",
        "resources": "memory of responses, places of those who iterate",
        "transport": "a request is a stream",
    },
    "resources": {"wire": "the budget that a Yamux session asks"},
    "store": {
        "addresses": "keeps the address book",
        "firewall": "keeps its rules",
        "resources": "changes that wait, by network",
    },
    "swarm": {
        "addresses": "where to dial, and what is known of each address",
        "firewall": "admission alone: with whom there may be connections",
        "protocols": "identify and ping",
        "resources": "places and memory, by network and peer",
        "transport": "connections",
        "wire": "the identity that handshakes show",
    },
    "discovery": {
        "addresses": "the book takes what is found",
        "protocols": "it is a service: it hears of listeners and interfaces",
        "resources": "what senders may fill, and the loop's time",
        "transport": "the addresses of the interfaces",
    },
    "port_mapping": {
        "protocols": "is a service, though it has no protocol between peers",
        "transport": "a thread for what blocks",
    },
    "protocols": {
        "encoding": "protobuf messages and their lengths",
        "firewall": "approvers answer its questions",
        "resources": "a relay's reservations, by network and peer",
        "transport": "they run over streams",
        "wire": "signed records, the length of a protocol id",
    },
    "transport": {
        "resources": "the loop's time and the memory that input takes",
        "wire": "the machines that it drives",
    },
    "wire": {"encoding": "varints and protobuf messages"},
    "firewall": {"resources": "questions and what waits for them, by network and peer"},
    "addresses": {
        "resources": "room for what remotes tell, by network",
        "wire": "signed peer records",
    },
    "encoding": {},
}
"""Which package may import which, and why. All may import the flat modules, except as FLAT_EDGES says."""

FLAT_EDGES = {
    "errors": {"reset_codes"},
    "config": {"limit_fields"},
    "limit_fields": set[str](),
    "arguments": set[str](),
    "compiling": set[str](),
    "ending": set[str](),
    "frozen": set[str](),
    "loops": set[str](),
    "generics": set[str](),
    "logs": set[str](),
    "identity": {"errors", "encoding", "key_file"},
    "key_file": {"errors"},
    "multiaddr": {"errors", "encoding", "identity"},
    "reset_codes": set[str](),
    "version": set[str](),
    "events": {"errors", "identity", "multiaddr"},
    "event_hub": {"events", "logs", "loops"},
    "encoding": {"errors"},
}
"""What the modules at the bottom may import: nothing that imports them."""

PURE = {
    "encoding": "bytes in, values out",
    "wire": "machines: bytes and the time in; bytes, events and the next deadline out",
    "events": "what happened, as values",
    "errors": "what went wrong, as values",
    "reset_codes": "numbers in, reasons out",
    "config": "limits, as values",
    "frozen": "a mapping, as a value",
    "arguments": "checks",
    "firewall.rule": "decisions",
    "firewall.rules": "decisions; the clocks are arguments",
    "firewall.admission": "decisions",
    "firewall.names": "who is called what, as values",
    "firewall.quotas": "decisions; the time is an argument",
    "firewall.traffic": "decisions; the time is an argument",
    "firewall.toml_lines": "text in, positions out",
    "transport.allowance": "counts; the time is an argument",
    "transport.forwarding": "headers in, an address out",
    "addresses.target": "text in, peer and address out",
    "addresses.entry": "what is known of an address, as values",
    "addresses.export": "text in, addresses out",
    "addresses.peer_addresses": "addresses of one peer; the time is an argument",
    "swarm.own_addresses": "decisions; the time is an argument",
    "diagnosis.dialing": "errors in, words out",
    "diagnosis.facts": "facts, as values",
    "diagnosis.finding": "findings, as values",
    "diagnosis.machine": "facts in, findings out",
    "diagnosis.remotes": "facts in, findings out",
    "diagnosis.router": "facts in, findings out",
    "diagnosis.summary": "findings in, the sum of them out",
    "cli.audit.chain": "records in, lines out, and back",
    "cli.audit.record": "events in, records out",
    "cli.audit.verify": "lines in, findings out",
    "protocols.autonat.rates": "decisions; the time is an argument",
    "protocols.autonat.results": "decisions; the time is an argument",
    "resources.rates": "decisions; the time is an argument",
    "port_mapping.epoch": "decisions; the time is an argument",
    "port_mapping.nat_pmp": "bytes in, values out",
    "port_mapping.pcp": "bytes in, values out",
    "port_mapping.ssdp": "bytes in, a URL out",
    "swarm.ranking": "decisions; the time is an argument",
    "discovery.texts": "what is announced, as text and as values",
    "discovery.packets": "bytes in, values out",
    "discovery.neighbors": "who was heard of; the time is an argument",
    "discovery.intake": "counts; the time is an argument",
}
"""What does no I/O, reads no clock and draws no random numbers, so that its tests need neither loop nor sleep."""

DOES_IO = {"asyncio", "socket", "ssl", "time", "random", "secrets", "os", "threading", "selectors", "uvloop"}

MAX_LINES = 600

MYPYC = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]["mypyc"]
"""Which modules may be compiled: files and folders, by their paths in the checkout."""
COMPILED = [
    path
    for path in MODULES
    if any(f"/{path.relative_to(ROOT.parents[1])}".startswith(included) for included in MYPYC["include"])
]


def name_of(path: Path) -> str:
    """``wire.yamux.frame`` for a module, ``wire.yamux`` for its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    return module.partition(".")[0]


def is_pure(module: str) -> bool:
    return any(module == pure or module.startswith(f"{pure}.") for pure in PURE)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """Imports that only a type checker follows: two classes of one module's layer may name each other."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


@functools.cache
def imports(path: Path, *, typing: bool = False) -> tuple[set[str], set[str]]:
    """The modules of ours and the packages of others that a module imports."""
    tree = tree_of(path)
    skipped = set() if typing else type_checking_only(tree)
    ours: set[str] = set()
    others: set[str] = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                (ours if alias.name.startswith("stronghold_p2p") else others).add(
                    alias.name.removeprefix("stronghold_p2p.")
                )
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            if not node.level and not module.startswith("stronghold_p2p"):
                others.add(module)
                continue
            module = module.removeprefix("stronghold_p2p").strip(".")
            for alias in node.names:
                full = f"{module}.{alias.name}".strip(".")
                is_module = (ROOT / Path(*full.split("."))).is_dir() or (
                    ROOT / Path(*full.split(".")).with_suffix(".py")
                ).exists()
                ours.add(full if is_module else module or "__init__")
    return ours, {name.partition(".")[0] for name in others}


def test_a_package_imports_what_is_declared() -> None:
    undeclared = []
    for path in MODULES:
        package = package_of(name_of(path))
        allowed = FLAT_EDGES[package] if package in FLAT_EDGES else EDGES[package].keys() | FLAT
        imported = {one for one in imports(path)[0] if package_of(one) not in allowed | {package}}
        undeclared += [f"{name_of(path)} imports {one}" for one in imported]
    assert not undeclared


def test_every_declared_edge_is_needed_and_has_its_reason() -> None:
    needed: dict[str, set[str]] = {}
    for path in MODULES:
        needed.setdefault(package_of(name_of(path)), set()).update(map(package_of, imports(path)[0]))
    for package, edges in EDGES.items():
        assert edges.keys() <= needed[package], package
        assert all(edges.values()), package


def test_the_declared_edges_make_no_circle() -> None:
    above: dict[str, set[str]] = {package: set(edges) for package, edges in EDGES.items()} | FLAT_EDGES
    graphlib.TopologicalSorter(above).prepare()


def test_what_is_pure_does_no_io() -> None:
    pure = [path for path in MODULES if is_pure(name_of(path))]
    assert {
        name_of(path): found for path in pure if (found := DOES_IO & set().union(*imports(path, typing=True)))
    } == {}


def test_no_module_is_long() -> None:
    assert [name_of(path) for path in MODULES if len(path.read_text().splitlines()) > MAX_LINES] == []


def compiled(kind: type[Node]) -> Iterator[tuple[str, Node]]:
    """What may be compiled has these nodes, each with where it is."""
    for path in COMPILED:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, kind):
                yield f"{name_of(path)}:{node.lineno}", node


def test_nothing_is_awaited_in_a_finally_block_that_may_be_compiled() -> None:
    """mypyc would leave the error that goes through it behind, as the one being handled by whatever runs next."""
    for where, node in compiled(ast.Try):
        inner = [part for statement in node.finalbody for part in ast.walk(statement)]
        assert not [part for part in inner if isinstance(part, ast.Await | ast.AsyncWith | ast.AsyncFor)], where


def test_nothing_is_awaited_in_a_handler_that_raises_again_where_it_may_be_compiled() -> None:
    """For the same reason; ``ending.begin`` does that."""
    for where, node in compiled(ast.ExceptHandler):
        inner = [part for statement in node.body for part in ast.walk(statement)]
        if any(isinstance(part, ast.Raise) and part.exc is None for part in inner):
            assert not [part for part in inner if isinstance(part, ast.Await)], where


def test_no_exit_that_may_raise_is_awaited_by_what_may_be_compiled() -> None:
    """mypyc would free the error once too often. The timeouts of asyncio raise at their exit only what passes there."""
    for where, node in compiled(ast.AsyncWith):
        contexts = [ast.unparse(item.context_expr) for item in node.items]
        assert all(context.startswith("asyncio.timeout") for context in contexts), (where, contexts)


def test_every_module_has_its_place() -> None:
    names = [name_of(path) for path in MODULES]
    assert {package_of(name) for name in names} == EDGES.keys() | FLAT
    assert len(names) > 30
    assert [pure for pure in PURE if not any(f"{name}.".startswith(f"{pure}.") for name in names)] == []
    assert COMPILED


def test_the_public_names_are_all_that_their_module_imports() -> None:
    tree = ast.parse((ROOT / "public.py").read_text())
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    (listed,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    assert set(ast.literal_eval(listed)) == imported
