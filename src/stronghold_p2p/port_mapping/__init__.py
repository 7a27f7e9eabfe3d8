"""Port mapping: has a router forward ports to us, by PCP, NAT-PMP or UPnP."""

from .service import PortMappingService

__all__ = ["PortMappingService"]
