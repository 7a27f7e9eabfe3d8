"""Imports point downwards, machines do no I/O, and modules stay short (DESIGN.md, section 2)."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "stronghold_p2p"
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if not path.name.endswith("_pb2.py")]

LAYERS = [
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"peer"},
    {"requests", "policy", "state", "addresses", "codec"},
    {"gate"},
    {"approval"},
    {"firewall", "traffic"},
    {"swarm"},
    {"dialer"},
    {"admission"},
    {"protocols"},
    {"transport"},
    {"wire"},
    {"errors", "config", "events", "generics", "identity", "multiaddr", "multibase", "toml_lines"},
]
"""From the top down; those side by side may import each other."""

LEAVES = {"wire.varint", "wire.messages"}
"""What the modules at the bottom may import of the layer above them: these import nothing but errors."""

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


def layer_of(module: str) -> int:
    (layer,) = [index for index, names in enumerate(LAYERS) if module.partition(".")[0] in names]
    return layer


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """Imports that only a type checker follows: two classes of one module's layer may name each other."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(path: Path, *, typing: bool = False) -> tuple[set[str], set[str]]:
    """The modules of ours and the packages of others that a module imports."""
    tree = ast.parse(path.read_text())
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


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    module = name_of(path)
    ours, _ = imports(path)
    for imported in ours:
        if imported in LEAVES and layer_of(module) > layer_of("wire"):
            continue
        if any(imported.startswith(f"{leaf}.") for leaf in LEAVES) and layer_of(module) > layer_of("wire"):
            continue
        assert layer_of(imported) >= layer_of(module), f"{module} imports {imported}"


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_what_the_bottom_may_import_imports_nothing_else(leaf: str) -> None:
    for path in MODULES:
        if name_of(path) == leaf or name_of(path).startswith(f"{leaf}."):
            assert all(name == "errors" or name.startswith(leaf) for name in imports(path)[0])


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith("wire")], ids=name_of)
def test_machines_do_no_io(path: Path) -> None:
    ours, others = imports(path, typing=True)
    assert not others & DOES_IO
    assert not ours & DOES_IO


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", COMPILED, ids=name_of)
def test_nothing_is_awaited_in_a_finally_block_that_may_be_compiled(path: Path) -> None:
    """mypyc would leave the error that goes through it behind, as the one being handled by whatever runs next."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Try):
            inner = [part for statement in node.finalbody for part in ast.walk(statement)]
            assert not [part for part in inner if isinstance(part, ast.Await | ast.AsyncWith | ast.AsyncFor)]


def test_there_is_nothing_between_the_layers() -> None:
    assert {name_of(path).partition(".")[0] for path in MODULES} <= set().union(*LAYERS)
    assert len(MODULES) > 30


def test_the_public_names_are_all_that_the_package_imports() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    (listed,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    assert set(ast.literal_eval(listed)) == imported
