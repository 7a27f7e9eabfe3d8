"""State machines of hypothesis whose steps run on an event loop, in a time that they move."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from .clock import Clock
from .loop import Loop

__all__ = ["LoopMachine"]


class LoopMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.clock = Clock(self.loop.time())
        self.loop.time = self.clock  # type: ignore[method-assign]
        self.complaints: list[dict[str, Any]] = []
        """Of the loop."""
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def check_nothing_is_left(self) -> None:
        assert not asyncio.all_tasks(self.loop)
        assert not self.complaints
