"""Port mapping: has a router forward ports to us, by PCP, NAT-PMP or UPnP."""

from .mapper import PortReport
from .service import PortMappingService, probe

__all__ = ["PortMappingService", "PortReport", "probe"]
