"""Validation: simulate what others measured, and say how far off the simulation is."""
