"""What a person or a script sees of a run. The only package that imports rich."""
