"""The frozen layers' output, kept over epochs and runs."""
