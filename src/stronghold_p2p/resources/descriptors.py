"""How many connections the process has file descriptors for."""

from __future__ import annotations

import logging
import resource
from dataclasses import replace
from typing import Final

from ..config import Config

__all__ = ["fit_to_descriptors"]

logger = logging.getLogger("stronghold_p2p")

PENDING: Final = 4
"""One descriptor in so many is for connections in their upgrade."""

ESTABLISHED: Final = 2
"""One in so many for established ones that were dialed by remotes. What is left is for the program, and for our dials."""


def fit_to_descriptors(config: Config) -> Config:
    """``config`` with the limits of inbound connections lowered to what the process may open: remotes must not take the
    descriptors that its files and its own connections need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return config
    fitting = replace(
        config,
        max_pending_inbound_connections=min(config.max_pending_inbound_connections, max(1, soft // PENDING)),
        max_inbound_connections=min(config.max_inbound_connections, max(1, soft // ESTABLISHED)),
    )
    if fitting != config:
        logger.debug(
            "%d inbound connections at most, for the process may open %d descriptors (ulimit -n)",
            fitting.max_inbound_connections,
            soft,
        )
    return fitting
