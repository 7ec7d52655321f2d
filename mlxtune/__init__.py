"""mlxtune fine-tunes language models on Apple Silicon.

The command line is `mlxtune`. From Python, `from mlxtune import Recipe, train, evaluate, generate, load_run`; each name
is imported when it is first asked for, so that importing the package stays light.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Recipe", "evaluate", "generate", "load_run", "train"]


def __getattr__(name: str) -> Any:
    """The names of the front door."""
    if name not in __all__:
        raise AttributeError(f"module 'mlxtune' has no attribute {name!r}")
    return getattr(importlib.import_module("mlxtune.front"), name)


def __dir__() -> list[str]:
    """All names, those that are not imported yet too."""
    return [*globals(), *__all__]
