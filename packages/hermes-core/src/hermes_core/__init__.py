"""Simulates how large language models are served."""
