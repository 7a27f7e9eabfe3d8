"""Port mapping: has a router forward ports to us, by PCP, NAT-PMP or UPnP."""

from .mapper import PortMapper

__all__ = ["PortMapper"]
