"""``listen --console``: a page on which a person sees what the peer does, and answers the firewall's questions."""
