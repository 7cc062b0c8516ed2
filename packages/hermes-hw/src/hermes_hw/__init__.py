"""Hardware models for HERMES: what a step of a model costs on a device, in time, energy and money."""
