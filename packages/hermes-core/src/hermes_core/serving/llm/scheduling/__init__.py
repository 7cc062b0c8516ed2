"""Who waits, who runs, and in which order: the scheduler, its policies and its queues."""
