"""Runs: checkpoints with digests, the run's facts, and the lock on its folder."""
