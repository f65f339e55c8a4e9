#!/bin/bash
# Record a network under nsys on a node of a Slurm cluster; read the result at home.
#
#   sbatch nsys_on_a_cluster.sh fcn-r --engine torch --threads 8 --budget 5m
#
# The node needs kernelprof, its engine and nsys (KERNELPROF_NSYS names it where it is not on the PATH).
#SBATCH --job-name=kernelprof
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=00:30:00
set -euo pipefail

name="kernelprof-${SLURM_JOB_ID:-0}"

# One task with all CPUs of the job: kernelprof pins the threads itself.  Add --gpu to `record` for
# CUDA's kernels and copies.
srun --ntasks=1 --cpu-bind=none kernelprof nsys record "$@" -o "$name.kprof"

# The export holds the node's environment and processes: share the scrubbed copy, not the export.
kernelprof nsys scrub "$name.sqlite" -o "$name-shared.sqlite"

echo "Copy $name.kprof and $name-shared.sqlite, then at home:"
echo "  kernelprof nsys import $name-shared.sqlite $name.kprof"
echo "  kernelprof report $name.kprof --format html -o $name.html"
