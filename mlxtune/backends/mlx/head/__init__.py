"""The head and its cross-entropy."""
