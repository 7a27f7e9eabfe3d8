"""``listen --workers``: one process that prints and asks, and several that listen on its port as one peer."""
