"""Clients that serve batches of stage jobs, and their pools."""
