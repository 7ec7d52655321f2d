"""Adapters as data: what each kind adds to a linear module, a file for each, and the folders that adapters are in."""
