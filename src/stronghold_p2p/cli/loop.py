"""The event loop that commands run on: uvloop's, if that is installed."""

from __future__ import annotations

import asyncio

__all__ = ["LOOP", "new_event_loop"]

try:
    import uvloop
except ImportError:
    LOOP, new_event_loop = "asyncio", asyncio.new_event_loop
else:
    LOOP, new_event_loop = "uvloop", uvloop.new_event_loop
