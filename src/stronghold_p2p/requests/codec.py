"""Codecs: what a request or a response is in Python, and what it is on the wire.

Tagged unions, that is unions of msgspec structs without tags of their own, have serde's default form, the externally
tagged one, so that they match a Rust enum:

====================================  =====================
``class Ping(Struct)``                ``"Ping"``
``class Read(Struct)`` with fields    ``{"Read": {...}}``
one field, ``array_like=True``        ``{"Message": "hi"}``
several fields, ``array_like=True``   ``{"Move": [1, 2]}``
====================================  =====================

The variant's name is that of its class. Two unions that share a name take two classes of that name: nest each in a
class of its own. If None is a member of the union, too, it is ``null``, as serde has an ``Option``. MessagePack has the
same shape, as rmp-serde's named form.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, Union

import msgspec
from msgspec import UNSET

from ..errors import DecodeError, EncodeError
from .declared import DeclaredType, class_of
from .values import UNCOUNTED, check_json, check_msgpack

__all__ = ["PROTOCOLS", "Codec", "CodecName", "make_codec"]

CodecName = Literal["json", "msgpack", "raw"]

PROTOCOLS: Final[dict[CodecName, str]] = {
    "json": "/stronghold-p2p/1.0.0",
    "msgpack": "/stronghold-p2p/msgpack/1.0.0",
    "raw": "/stronghold-p2p/raw/1.0.0",
}
"""The protocol id under which requests of each codec travel."""

MAX_REASON: Final = 200
"""Characters of a library's message in our error: such messages quote the remote, who may have sent a megabyte."""

T = TypeVar("T")


class Codec(Generic[T]):
    """Encodes and decodes the messages of one direction."""

    __slots__ = (
        "_check",
        "_check_own",
        "_decode",
        "_encode",
        "_max_values",
        "_unchecked",
        "max_size",
        "name",
        "type_name",
        "type_names",
    )

    def __init__(self, name: CodecName, form: _Form, max_size: int, max_values: int) -> None:
        self.name: Final = name
        self.max_size: Final = max_size
        """Bytes that an encoded message may have. Whoever receives one checks this before it is whole."""
        self.type_name: Final[Callable[[T], str | None]] = form.type_name
        """The name that the firewall knows a message's type by, None for what has none: that of its class, among those
        that are declared (structs, dataclasses and those of attrs, TypedDicts, NamedTuples); the text under the key
        ``type`` of an untyped dict, unless it looks like a protocol of streams."""
        self.type_names: Final = form.type_names
        """Every name that a message's type can have; None where messages are untyped, and it may be any text."""
        self._encode = form.encode
        self._decode: Final[Callable[[bytes], T]] = form.decode
        self._check, self._check_own = _CHECKS[name]
        self._max_values = max_values
        self._unchecked = {"json": min(UNCOUNTED, max_values), "msgpack": 0, "raw": sys.maxsize}[name]
        """Bytes of a message that need not be checked."""

    def encode(self, value: T) -> bytes:
        """The bytes of ``value``.

        The class of a struct, a dataclass, or a variant is checked; the values in it are not, the remote will do that.
        What JSON has no number for, NaN and the infinities, becomes ``null``, as in JavaScript and serde_json.

        Raises:
            EncodeError: the value is not of the declared type, has no such form, is over ``max_size``, or, in MessagePack,
                would be refused by a peer with our limit of values.
        """
        try:
            data = self._encode(value)
            size = len(data)
            if self._unchecked < size <= self.max_size:
                self._check_own(data, self._max_values)
        except Exception as error:  # its types are many: of the value's type, text, numbers, depth
            raise EncodeError(f"cannot be sent as {self.name}: {error}") from error
        if size > self.max_size:
            raise EncodeError(f"a message of {size} bytes is over the limit of {self.max_size}")
        return data

    def weight(self, data: bytes) -> int:
        """Bytes of memory that the value in ``data`` takes once it is decoded, estimated from above if no type is
        declared: small arrays and objects take over sixty times as many as their message."""
        return _WEIGHERS[self.name](data)

    def decode(self, data: bytes) -> T:
        """The value in ``data``, all of it.

        Raises:
            DecodeError: it is malformed, has too many values, is nested too deeply, or is not of the declared type.
        """
        try:
            value = self._decode(data) if len(data) <= self._unchecked else self._decode_checked(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Whatever a remote can provoke, in msgspec (ValueError, TypeError, RecursionError ...) or in a class of
            # the user's, is the remote's fault.
            text = str(error) or type(error).__name__
            reason = text[:MAX_REASON].encode("unicode_escape").decode("ascii")  # may go to a terminal or a log
            raise DecodeError(self.name, reason) from error
        return value

    def _decode_checked(self, data: bytes) -> T:
        """A large one is decoded with the garbage collector off, as it is in C code since Python 3.12: it would go
        through all objects of the program, and many times through the new ones, which takes longer than to decode."""
        self._check(data, self._max_values)
        if len(data) <= UNCOUNTED or not gc.isenabled():
            return self._decode(data)
        gc.disable()
        try:
            return self._decode(data)
        finally:
            gc.enable()


def make_codec(name: CodecName, type_: Any, *, max_size: int, max_values: int = sys.maxsize) -> Codec[Any]:
    """The codec ``name`` for messages of ``type_``, of at most ``max_size`` bytes and ``max_values`` values each.

    ``type_`` is anything that msgspec supports; None means any JSON value. For ``"raw"`` it is None or ``bytes``.
    Keys of MessagePack maps are text or bytes. Where a remote is hostile, do not declare

    - a set of numbers, or a dict with numbers for keys: Python's hashes of numbers are no secret, and those that collide
      take quadratic time;
    - a union of structs with tags of their own within itself: msgspec reads an object up to its tag, and then again, on
      every level anew, which takes over a second for a megabyte.

    Raises:
        TypeError: there can be no codec for the type.
    """
    if name == "raw":
        if type_ not in (None, bytes):
            raise TypeError(f"the raw codec is for bytes, not for {type_!r}")
        return Codec(name, _Form(_raw_encode, bytes, _nameless, frozenset()), max_size, max_values)
    notation = _NOTATIONS[name]
    declared = DeclaredType(Any if type_ is None else type_)
    if not declared.variants:
        form = _plain(notation, declared)
    elif any(class_.__struct_config__.tag is not None for class_ in map(class_of, declared.variants)):
        form = _internally_tagged(notation, declared)
    else:
        form = _externally_tagged(notation, declared)
    return Codec(name, form, max_size, max_values)


# -- forms: how values of one type are written ---------------------------------------------------------


class _Form(NamedTuple):
    """Three functions, of which the first two may raise anything; and the names that the third gives, None for any."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    type_name: Callable[[Any], str | None]
    type_names: frozenset[str] | None


def _nameless(value: object) -> None:
    return None


def _raw_encode(value: object) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"expected bytes, got {type(value).__name__}")
    return bytes(value)


def _untyped_name(value: object) -> str | None:
    name = value.get("type") if isinstance(value, dict) else None
    # A rule may let a stream of "/chat" pass: that is no rule for requests which call themselves so.
    return name if isinstance(name, str) and not name.startswith("/") else None


def _plain(notation: _Notation, declared: DeclaredType) -> _Form:
    """As msgspec writes it."""
    encode_any = notation.encode
    decode = notation.decoder(declared.type)
    names = declared.names
    if not names:
        if declared.is_untyped:
            return _Form(encode_any, decode, _untyped_name, None)
        return _Form(encode_any, decode, _nameless, frozenset())
    classes = tuple(names)

    def encode(value: object) -> bytes:
        if not isinstance(value, classes) and not (value is None and declared.optional):
            raise declared.mismatch(value)
        return encode_any(value)

    def type_name(value: object) -> str | None:
        for class_, name in names.items():
            if isinstance(value, class_):
                return name
        return _untyped_name(value) if declared.is_untyped else None

    return _Form(
        encode_any if declared.has_others else encode,
        decode,
        type_name,
        None if declared.is_untyped else frozenset(names.values()),
    )


def _internally_tagged(notation: _Notation, declared: DeclaredType) -> _Form:
    names = declared.names
    encode_any = notation.encode

    def encode(value: object) -> bytes:
        if type(value) not in names and not (value is None and declared.optional):
            raise declared.mismatch(value)
        return encode_any(value)

    return _Form(
        encode, notation.decoder(declared.type), lambda value: names.get(type(value)), frozenset(names.values())
    )


def _externally_tagged(notation: _Notation, declared: DeclaredType) -> _Form:
    """Decoding is one pass: into a unit's name, or into a struct with one optional field for every other variant."""
    names = declared.names
    variants = list(map(_Variant, declared.variants))
    by_class = {variant.class_: variant for variant in variants}
    units = {variant.name: variant.class_ for variant in variants if variant.is_unit}
    others = [variant for variant in variants if not variant.is_unit]
    encode_any = notation.encode
    decode_any = notation.decoder(_external_form(units, others, optional=declared.optional))

    def encode(value: object) -> bytes:
        variant = by_class.get(type(value))
        if variant is None:
            if value is None and declared.optional:
                return encode_any(None)
            raise declared.mismatch(value)
        return encode_any(variant.name if variant.is_unit else {variant.name: variant.content(value)})

    def decode(data: bytes) -> Any:
        envelope = decode_any(data)
        if type(envelope) is str:
            return units[envelope]()
        if envelope is None:
            return None
        contents = msgspec.structs.astuple(envelope)
        present = [index for index, content in enumerate(contents) if content is not UNSET]
        if len(present) != 1:
            raise ValueError(f"expected one variant, got {len(present)}")
        return others[present[0]].build(contents[present[0]])

    return _Form(encode, decode, lambda value: names.get(type(value)), frozenset(names.values()))


def _external_form(units: Collection[str], others: list[_Variant], *, optional: bool) -> Any:
    """The type that msgspec decodes."""
    forms: list[Any] = [None] if optional else []
    if units:
        forms.append(Literal[*units])
    if others:
        # Fields are numbered and renamed, so that a variant's name cannot clash with what a struct has itself.
        fields = [(f"variant{index}", variant.content_type, UNSET) for index, variant in enumerate(others)]
        rename = {f"variant{index}": variant.name for index, variant in enumerate(others)}
        forms.append(msgspec.defstruct("Variant", fields, rename=rename, forbid_unknown_fields=True))
    return Union[*forms]


class _Variant:
    """One variant of an externally tagged union."""

    def __init__(self, type_: Any) -> None:
        self.class_: type[Any] = class_of(type_)
        self.name = self.class_.__name__
        fields = msgspec.structs.fields(type_)
        self.is_unit = not fields
        self.content_type: Any = type_
        self._field: str | None = None
        """The field of a newtype, whose value stands alone."""
        if self.class_.__struct_config__.array_like and len(fields) == 1:
            self.content_type = fields[0].type
            self._field = fields[0].name

    def content(self, value: Any) -> Any:
        """What stands beside the name for ``value``."""
        return value if self._field is None else getattr(value, self._field)

    def build(self, content: Any) -> Any:
        """The value for the content that was decoded."""
        return content if self._field is None else self.class_(**{self._field: content})


# -- notations: JSON and MessagePack -------------------------------------------------------------------


class _Notation(NamedTuple):
    encode: Callable[[Any], bytes]
    decoder: Callable[[Any], Callable[[bytes], Any]]
    """Makes the function that decodes to a type; raises TypeError."""


_NOTATIONS: Final = {
    "json": _Notation(msgspec.json.Encoder().encode, lambda type_: msgspec.json.Decoder(type_).decode),
    "msgpack": _Notation(msgspec.msgpack.Encoder().encode, lambda type_: msgspec.msgpack.Decoder(type_).decode),
}


_Check = Callable[[bytes, int], None]

_CHECKS: Final[dict[CodecName, tuple[_Check, _Check]]] = {
    "json": (check_json, lambda data, limit: None),
    "msgpack": (check_msgpack, check_msgpack),
    "raw": (lambda data, limit: None, lambda data, limit: None),
}
"""Of what a remote has sent, and of what we send. JSON of our own is not looked at: that would double what it takes to send
a long text, and the remote will do it."""


# -- how much memory values take -----------------------------------------------------------------------

_PLACE: Final = 8
"""Bytes of a value's place in its container."""
_NUMBER: Final = 32
_TEXT: Final = 64
_ARRAY: Final = 80
_MAP: Final = 120
"""Bytes of one with a member, whose key counts as a text."""
_CHARACTER: Final = 4
"""Bytes of each character of a text, if a single one of them needs so many."""


def _json_weight(data: bytes) -> int:
    count = data.count
    containers = _MAP * count(b"{") + _ARRAY * count(b"[")
    return _CHARACTER * len(data) + containers + _TEXT // 2 * count(b'"') + (_PLACE + _NUMBER) * count(b",")


def _msgpack_weight(data: bytes) -> int:
    """Each byte may be a value, and one in a text looks like whatever it looks like."""
    size = len(data)
    return (_PLACE + 1) * size + sum(
        each * (size - len(data.translate(None, bytes(heads)))) for each, heads in _MSGPACK_HEADS.items()
    )


_MSGPACK_HEADS: Final = {
    _MAP: (*range(0x81, 0x90), 0xDE, 0xDF, *range(0xC7, 0xCA), *range(0xD4, 0xD9)),  # extensions, too
    _ARRAY: (0x80, *range(0x90, 0xA0), 0xDC, 0xDD),  # an empty map, too
    _TEXT: (*range(0xA0, 0xC0), *range(0xC4, 0xC7), *range(0xD9, 0xDC)),
    _NUMBER: (*range(0xCA, 0xD4),),
}

_WEIGHERS: Final[dict[CodecName, Callable[[bytes], int]]] = {
    "json": _json_weight,
    "msgpack": _msgpack_weight,
    "raw": len,
}
