"""`hermes calibrate`: prices fitted to observed runs."""
