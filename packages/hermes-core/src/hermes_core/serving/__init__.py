"""Clients that serve requests, the memory and queues they own, and the coordinator that sends work to them."""
