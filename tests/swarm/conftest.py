"""A world to dial in."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.dialing import World, a_world

FACTORIES: list[Any] = [None]
"""Of tasks. An eager one may have ended when it has just been made."""
if sys.version_info >= (3, 12):
    FACTORIES.append(asyncio.eager_task_factory)


@pytest.fixture(params=FACTORIES)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    asyncio.get_running_loop().set_task_factory(request.param)
    async with a_world() as world:
        yield world
