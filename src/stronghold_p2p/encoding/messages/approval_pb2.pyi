from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ApprovalQuestion(_message.Message):
    __slots__ = ("nonce", "kind", "peer", "name", "address", "direction", "type", "view", "milliseconds", "waiting", "need", "agreed")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    NEED_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    kind: int
    peer: bytes
    name: str
    address: bytes
    direction: int
    type: str
    view: str
    milliseconds: int
    waiting: int
    need: int
    agreed: int
    def __init__(self, nonce: _Optional[bytes] = ..., kind: _Optional[int] = ..., peer: _Optional[bytes] = ..., name: _Optional[str] = ..., address: _Optional[bytes] = ..., direction: _Optional[int] = ..., type: _Optional[str] = ..., view: _Optional[str] = ..., milliseconds: _Optional[int] = ..., waiting: _Optional[int] = ..., need: _Optional[int] = ..., agreed: _Optional[int] = ...) -> None: ...

class ApprovalAnswer(_message.Message):
    __slots__ = ("asker", "nonce", "question", "peer", "direction", "type", "scope", "milliseconds", "reason", "time", "kind")
    ASKER_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    asker: bytes
    nonce: bytes
    question: bytes
    peer: bytes
    direction: int
    type: str
    scope: int
    milliseconds: int
    reason: str
    time: int
    kind: int
    def __init__(self, asker: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., question: _Optional[bytes] = ..., peer: _Optional[bytes] = ..., direction: _Optional[int] = ..., type: _Optional[str] = ..., scope: _Optional[int] = ..., milliseconds: _Optional[int] = ..., reason: _Optional[str] = ..., time: _Optional[int] = ..., kind: _Optional[int] = ...) -> None: ...

class ApprovalEnd(_message.Message):
    __slots__ = ("outcome", "by", "reason")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    by: str
    reason: str
    def __init__(self, outcome: _Optional[str] = ..., by: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
