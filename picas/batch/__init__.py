"""Batch systems: what each tells a job that runs in it, and how jobs are submitted to it."""
