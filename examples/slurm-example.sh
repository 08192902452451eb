#!/bin/bash
# Starts pilots on a Slurm cluster:
#
#   sbatch slurm-example.sh [options of local-example.py]
#
# for example: sbatch --array=1-50 slurm-example.sh --view todo --design-doc SingleCore
# Each task of the array is one pilot. It takes tokens until none is left that it can finish within its time limit.

#SBATCH --job-name=picas
#SBATCH --array=1-2
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
# At the time limit, Slurm asks the pilot to stop, and gives it some seconds to put its token back into the pool.

# Load what your work needs here, for example:
# module load 2024
# source ~/my-environment/bin/activate

# Slurm runs a copy of this script. If it was submitted from another folder, only Slurm knows where the original is.
cd "$SLURM_SUBMIT_DIR" || exit 1
pilot=local-example.py
if [ ! -e "$pilot" ]; then
    pilot=$(scontrol show job "$SLURM_JOB_ID" | sed -n '/Command=/{s,.*Command=\(.*\)/slurm-example\.sh.*,\1,p;q}')/$pilot
    [ -e "$pilot" ] || { echo "There is no local-example.py here: submit this script from its folder" >&2; exit 1; }
fi

# "exec" makes Python the process that Slurm signals; without it, a cancelled pilot can't put its token back.
exec python3 "$pilot" --scratch "${TMPDIR:-/tmp}" "$@"
