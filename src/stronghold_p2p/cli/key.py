"""``key new`` and ``key show``: identity keys."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..identity import Keypair
from . import output
from .command import UsageError, command, load_key, passphrase

__all__ = ["key"]

key = typer.Typer(name="key", help="Make and show identity keys.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The key file.")]


def new(
    file: File,
    *,
    encrypt: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt it; asks, or takes STRONGHOLD_P2P_PASSPHRASE.")
    ] = False,
    format: Annotated[
        Literal["pem", "libp2p"], typer.Option(help="PKCS#8 as PEM, or libp2p's protobuf, which cannot be encrypted.")
    ] = "pem",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Make a new Ed25519 identity."""
    if encrypt and format == "libp2p":
        raise UsageError("a key file in libp2p's form cannot be encrypted")
    keypair = Keypair.generate()
    secret = passphrase("New passphrase: ", "Once more: ") if encrypt else None
    keypair.save(file, passphrase=secret, format=format, force=force)
    _print({"file": str(file), **_description(keypair)})


def show(file: File) -> None:
    """Print a key file's peer id and public key (libp2p's protobuf form as base64)."""
    keypair = load_key(file)
    assert keypair is not None
    _print(_description(keypair))


for function in (new, show):
    key.command()(command(function))


def _description(keypair: Keypair) -> dict[str, str]:
    return {
        "peer_id": str(keypair.peer_id),
        "type": keypair.public_key.type.name,
        "public_key": base64.b64encode(keypair.public_key.to_protobuf()).decode(),
    }


def _print(record: dict[str, Any]) -> None:
    output.result(record, "\n".join(f"{name.replace('_', ' '):11} {value}" for name, value in record.items()))
