"""Batching policies, one module each (entry-point group hermes.batch_policies)."""
