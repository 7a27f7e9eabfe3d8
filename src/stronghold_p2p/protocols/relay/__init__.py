"""Circuit relay v2 (libp2p/specs relay/circuit-v2.md): the relay, and both ends of a circuit."""
