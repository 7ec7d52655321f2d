"""How much memory a run takes: known before it starts, found settings that fit, and held while it runs."""
