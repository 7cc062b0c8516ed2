"""LLM engines: clients, their pools, and what an engine is made of."""
