"""End-to-end encrypted requests between peers, on the libp2p protocols, behind a firewall for every request."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *
else:  # of which type checkers would take every name for a public one

    def __getattr__(name: str) -> Any:
        """Imports the library when the first of its names is used, so that the command line's help need not wait for it."""
        if name == "__all__" or name[:1].isupper():  # else it is a module of ours, which may not be imported yet
            from . import public

            globals().update({each: getattr(public, each) for each in public.__all__}, __all__=public.__all__)
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name) from None

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
