"""Which client of a pool gets a job."""
