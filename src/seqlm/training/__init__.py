"""The loop, what trains together, and what surrounds it."""
