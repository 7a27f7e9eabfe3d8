"""Interactive approval: the firewall's questions as lines, for a person or a program."""
