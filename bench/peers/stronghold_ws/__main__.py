"""stronghold-p2p over WebSocket, without TLS; else as over TCP."""

from __future__ import annotations

from functools import partial

import common
from stronghold.__main__ import VERSIONS, dial, serve

common.main(partial(serve, "/ip4/127.0.0.1/tcp/0/ws"), dial, VERSIONS)
