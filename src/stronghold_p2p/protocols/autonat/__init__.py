"""AutoNAT v2 (libp2p/specs autonat/autonat-v2.md): other peers dial our addresses, and we theirs, to learn which lead here."""
