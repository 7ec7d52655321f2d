"""mlxtune fine-tunes language models on Apple Silicon. The command line is `mlxtune`; `mlxtune.run.start` is one run."""
