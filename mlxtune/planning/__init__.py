"""The memory plan of a recipe."""
