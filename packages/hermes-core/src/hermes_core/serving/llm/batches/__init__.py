"""The sequences that decode together, kept as sums."""
