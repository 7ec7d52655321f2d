"""What this machine has and what will go wrong on it, as a list of Checks."""
