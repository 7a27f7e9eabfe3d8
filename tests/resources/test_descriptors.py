from __future__ import annotations

import resource

import pytest

from stronghold_p2p import Config
from stronghold_p2p.resources.descriptors import fit_to_descriptors


@pytest.mark.parametrize(
    ("soft", "pending", "established"),
    [(64, 16, 32), (1024, 256, 512), (100_000, 256, 4096), (resource.RLIM_INFINITY, 256, 4096), (2, 1, 1)],
)
def test_remotes_leave_descriptors_to_the_program(
    monkeypatch: pytest.MonkeyPatch, soft: int, pending: int, established: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, soft))
    config = fit_to_descriptors(Config(request_timeout=1))
    assert config.max_pending_inbound_connections == pending
    assert config.max_inbound_connections == established
    assert config.request_timeout == 1
