#!/bin/bash
# Starts pilots for the fractals on a Slurm cluster. Submit it from this folder:
#
#   sbatch slurm-fractals.sh [options of fractal_pilot.py]
#
# Each task of the array is one pilot. It works on one token for each of its processors, until none is left.

#SBATCH --job-name=fractals
#SBATCH --array=1-2
#SBATCH --cpus-per-task=2
#SBATCH --time=00:15:00

# Load Python here, if your cluster has modules, and activate the environment in which picas and NumPy are installed:
# module load 2024 Python/3.12.3
# source ~/my-environment/bin/activate

cd "$SLURM_SUBMIT_DIR" || exit 1

# "exec" makes Python the process that Slurm signals; without it, a cancelled pilot can't put its tokens back.
exec python3 fractal_pilot.py --slots auto "$@"
