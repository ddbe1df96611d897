"""Training: the state, one jitted step, the loop around it, evaluation, and hooks."""
