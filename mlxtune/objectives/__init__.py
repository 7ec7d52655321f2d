"""What a run makes small: pure functions of the log-probabilities of tokens, over an array namespace."""
