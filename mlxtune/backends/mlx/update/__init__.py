"""The state of what trains, and one step of the optimizer over it."""
