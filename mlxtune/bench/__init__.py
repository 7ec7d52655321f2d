"""`mlxtune bench`: mlxtune beside mlx-lm's trainer, in one command, on the machine at hand."""
