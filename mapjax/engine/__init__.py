"""Training and evaluation: one step, one loop, whatever the task."""
