"""mlx-lm's model of a checked folder, put right where config.json asks for more."""
