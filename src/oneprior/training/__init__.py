"""Training as a pure function: the state after n samples is decided by (settings, seed, n) and by nothing else."""
