"""``key new`` and ``key show``: identity keys."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..identity import Keypair
from . import output
from .command import PassphraseFile, UsageError, group, load_key, passphrase

__all__ = ["key"]

File = Annotated[Path, typer.Argument(metavar="FILE", help="The key file.")]


def new(
    file: File,
    *,
    encrypt: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt the file; prompt for the passphrase if it is not given.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    format: Annotated[
        Literal["pem", "libp2p"], typer.Option(help="PEM (PKCS#8), or libp2p's protobuf, which cannot be encrypted.")
    ] = "pem",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Make a new key (Ed25519)."""
    encrypt = encrypt or passphrase_file is not None
    if encrypt and format == "libp2p":
        raise UsageError(
            "a key file in libp2p's format cannot be encrypted: leave out the passphrase, or use --format pem"
        )
    keypair = Keypair.generate()
    secret = passphrase("New passphrase: ", "Once more: ", file=passphrase_file) if encrypt else None
    keypair.save(file, passphrase=secret, format=format, force=force)
    _print({"file": str(file), **_description(keypair)})


def show(file: File, *, passphrase_file: PassphraseFile = None) -> None:
    """Print the peer id and the public key.

    The public key is libp2p's protobuf, as base64.
    """
    keypair = load_key(file, passphrase_file)
    assert keypair is not None
    _print(_description(keypair))


key = group("key", "Make and show key files. A key pair is the identity of a peer.", new, show)


def _description(keypair: Keypair) -> dict[str, str]:
    return {
        "peer_id": str(keypair.peer_id),
        "type": keypair.public_key.type.name,
        "public_key": base64.b64encode(keypair.public_key.to_protobuf()).decode(),
    }


def _print(record: dict[str, Any]) -> None:
    output.result(record, "\n".join(f"{name.replace('_', ' '):11} {value}" for name, value in record.items()))
