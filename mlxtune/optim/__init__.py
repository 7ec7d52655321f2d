"""Optimizers, schedules and clipping as pure functions over an array namespace."""
