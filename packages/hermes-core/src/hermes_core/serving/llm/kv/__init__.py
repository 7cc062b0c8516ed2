"""The KV memory of an engine, and KV on its way between engines."""
