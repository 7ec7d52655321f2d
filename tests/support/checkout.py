"""The folder that holds the package, the tests, the scripts and the documents."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
