"""What a declared type is made of, seen through its wrappers: unions, ``type`` statements, Annotated, NewType."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin

from msgspec import Struct

__all__ = ["DeclaredType", "class_of"]


class DeclaredType:
    """A type of requests or responses, by its members: those of a union, else itself alone."""

    def __init__(self, type_: Any) -> None:
        """
        Raises:
            TypeError: two members have one name, which rules could not tell apart.
        """
        self.type: Final = type_
        members = list(dict.fromkeys(_members(type_)))
        if Any in members:
            members = [Any]  # msgspec decodes to nothing else then
        classes = [class_ for class_ in map(class_of, members) if _is_named(class_)]
        self.optional: Final = types.NoneType in members
        """None is a member."""
        structs = [member for member in members if issubclass(class_of(member), Struct)]
        self.variants: Final = structs if 1 < len(structs) == len(members) - self.optional else []
        """The members of a tagged union: two structs or more, and nothing else but None."""
        self.names: Final = {dict if _is_typed_dict(class_) else class_: class_.__name__ for class_ in classes}
        """The name of each member that has one, by the class of its values."""
        self.has_others: Final = len(classes) + self.optional < len(members)
        """There are members without a name, and not only None."""
        self.is_untyped: Final = any(map(_is_untyped, members))
        """A value may be a dict that tells its type itself."""
        names = [class_.__name__ for class_ in classes]
        if len(set(names)) < len(names):
            raise TypeError(f"two variants have one name: {', '.join(names)}")

    def mismatch(self, value: object) -> TypeError:
        """The error for a value that is of no named member."""
        *others, last = [*self.names.values(), *(["None"] if self.optional else [])]
        expected = f"{', '.join(others)} or {last}" if others else last
        return TypeError(f"expected {expected}, got {type(value).__name__}")


def class_of(type_: Any) -> type[Any]:
    """The class of a type, parametrized or not; ``object`` for what is none."""
    class_ = get_origin(type_) or type_
    return class_ if isinstance(class_, type) else object


def _members(type_: Any) -> Iterator[Any]:
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in (Union, types.UnionType):
        for member in arguments:
            yield from _members(member)
    elif origin is Annotated:
        yield from _members(arguments[0])
    elif hasattr(type_, "__supertype__"):  # NewType's
        yield from _members(type_.__supertype__)
    elif hasattr(origin, "__value__"):  # of `type Maybe[T] = T | None`, with its parameters
        yield from _members(origin.__value__[arguments])
    elif hasattr(type_, "__value__"):
        yield from _members(type_.__value__)
    else:
        yield type_


def _is_named(class_: type[Any]) -> bool:
    """Whether it declares fields: a struct, a dataclass or one of attrs, a TypedDict, a NamedTuple."""
    return (
        issubclass(class_, Struct)
        or dataclasses.is_dataclass(class_)
        or hasattr(class_, "__attrs_attrs__")
        or _is_typed_dict(class_)
        or (issubclass(class_, tuple) and hasattr(class_, "_fields"))
    )


def _is_typed_dict(class_: type[Any]) -> bool:
    return issubclass(class_, dict) and hasattr(class_, "__total__")


def _is_untyped(type_: Any) -> bool:
    """Whether it has dicts that may have a text under the key ``type``."""
    class_ = class_of(type_)
    return type_ is Any or (
        issubclass(class_, Mapping)
        and not _is_typed_dict(class_)
        and all(any(member in (Any, str) for member in _members(argument)) for argument in get_args(type_))
    )
