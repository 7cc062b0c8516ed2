"""HERMES."""
