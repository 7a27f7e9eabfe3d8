"""The options of ``--audit``, for each command that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from ...identity import Keypair
from ..command import UsageError
from .file import AuditFile

__all__ = ["Audit", "AuditPath", "AuditRequired", "AuditView", "open_audit"]

AuditPath = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        metavar="FILE",
        help="Append each firewall decision, and what changes the firewall, to this file, as JSON.",
    ),
]
AuditRequired = Annotated[
    bool, typer.Option("--audit-required", help="Reject every request while the audit cannot be written.")
]
AuditView = Annotated[
    bool, typer.Option("--audit-view", help="Have the beginning of each request in the audit, as --ask shows it.")
]


class Audit(NamedTuple):
    """An audit that is to be written."""

    file: AuditFile
    required: bool
    views: bool


def open_audit(path: Path | None, keypair: Keypair, *, required: bool, views: bool = False) -> Audit | None:
    """Waits for a pipe's reader.

    Raises:
        UsageError: there are options for an audit, but no file.
        AuditFailed: it cannot be opened.
    """
    if path is not None:
        return Audit(AuditFile(path, keypair), required, views)
    for option, is_given in (("--audit-required", required), ("--audit-view", views)):
        if is_given:
            raise UsageError(f"{option} is for an audit: add --audit FILE")
    return None
