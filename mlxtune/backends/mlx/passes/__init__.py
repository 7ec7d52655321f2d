"""Forward and backward passes: packed, split at the first trained layer, recomputed."""
