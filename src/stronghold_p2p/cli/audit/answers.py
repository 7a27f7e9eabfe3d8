"""The answers of approvers that a decision in an audit has: whether they were given to what it says."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from ...errors import DecodeError
from ...events.direction import direction_word
from ...protocols.approval import ApprovalAnswer, open_answer
from .record import MAX_TYPE, as_text, signature_of

__all__ = ["answers_of"]


def answers_of(decision: Mapping[str, object]) -> list[ApprovalAnswer]:
    """What approvers have signed for this decision; nothing if it has no answers.

    Raises:
        DecodeError: an answer is malformed, is not signed by its approver, or is about something else; or a request was let
            pass by a rejection.
    """
    match decision.get("signatures", []):
        case [*answers]:
            return [_opened(decision, answer) for answer in answers]
    raise DecodeError("audit", "its answers are no list")


def _opened(decision: Mapping[str, object], told: object) -> ApprovalAnswer:
    match told:
        case {"envelope": str(text)}:
            try:
                envelope = base64.b64decode(text, validate=True)
            except ValueError as error:
                raise DecodeError("audit", f"an answer that is no base64: {error}") from error
        case _:
            raise DecodeError("audit", "an answer without what was signed")
    signed, answer = open_answer(envelope)
    if signature_of(signed) != told:
        raise DecodeError("audit", f"what {signed.approver} has signed is not what is told of it")
    about: dict[str, str | None] = {"peer": str(answer.peer), "direction": direction_word(answer.direction)}
    if answer.kind == "request":
        about["type"] = as_text(answer.type, MAX_TYPE)
    if any(decision.get(key) != value for key, value in about.items()):
        raise DecodeError("audit", f"{signed.approver} has answered about something else")
    if decision.get("allowed") and not signed.approved:
        raise DecodeError("audit", f"{signed.approver} has rejected it")
    return answer
