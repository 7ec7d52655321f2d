"""mlxtune fine-tunes language models on Apple Silicon.

The command line is `mlxtune`; from Python, `mlxtune.run.session.start` is one training run.
"""

__version__ = "0.1.0"
