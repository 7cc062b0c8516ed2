"""Facts shipped with the package, as JSON."""
