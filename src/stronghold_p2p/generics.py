"""What requests and responses are, for a type checker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Req = TypeVar("Req", default=Any)
    Res = TypeVar("Res", default=Any)
else:
    from typing import TypeVar

    Req = TypeVar("Req")
    Res = TypeVar("Res")

__all__ = ["Req", "Res"]
