"""The command line: one module a verb family. Each parses, calls one function, prints. The only importer of typer.

Verbs import what they call inside their bodies: `mlxtune --help` imports no array library.
"""

from mlxtune.cli.app import main

__all__ = ["main"]
