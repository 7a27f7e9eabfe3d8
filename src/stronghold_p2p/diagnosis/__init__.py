"""Why peers can or cannot be reached: :func:`diagnose` looks at this machine, its router, relays and a peer.

Facts and findings are apart. ``look`` and ``contact`` gather facts, by peers of this library; ``machine``, ``router``, ``remotes``
and ``summary`` turn them into findings, without any I/O. ``examination`` has their order.
"""

from .examination import diagnose
from .finding import Diagnosis, Finding, Reach, Verdict

__all__ = ["Diagnosis", "Finding", "Reach", "Verdict", "diagnose"]
