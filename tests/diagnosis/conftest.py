from __future__ import annotations

import pytest
from support.multicast import only_loopback

from stronghold_p2p.diagnosis import examination


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is in no network, and who is on it answers at once."""
    only_loopback(monkeypatch)
    monkeypatch.setattr(examination, "NEIGHBORS_PART", 0.01)
