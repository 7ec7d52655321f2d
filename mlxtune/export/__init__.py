"""Adapters and models out, in the formats of other tools."""
