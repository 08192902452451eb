"""What tests share: servers that misbehave, pilots as processes, a Slurm and a DIRAC of their own."""
