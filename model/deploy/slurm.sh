#!/usr/bin/env bash
# sbatch model/deploy/slurm.sh --dataset /shared/dataset --run /shared/run --model base
#
# One worker per node, or more with --ntasks-per-node. With GPUs, add --gpus-per-task=1.
# To train longer than --time, submit the same line several times with --dependency=singleton: each
# job resumes from the last checkpoint.
#SBATCH --job-name=clozeline
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# 120 s before the time limit, all workers get SIGTERM: they save and end with exit code 130.
#SBATCH --signal=TERM@120
# After a preemption or the failure of a node, Slurm starts the job again.
#SBATCH --requeue

restarts=${CLOZELINE_RESTARTS:-3}
for ((restart = 1; ; restart++)); do
    # If a worker fails, srun ends the others. The exit code is the highest of all workers.
    srun --kill-on-bad-exit=1 --label clozeline pretrain --strategy multi-worker "$@"
    code=$?
    case $code in
        0 | 2 | 130 | 143) exit $code ;;  # done, bad input, stopped
    esac
    if ((restart > restarts)); then
        exit $code
    fi
    echo "a worker failed (exit code $code); starting all again ($restart of $restarts)" >&2
done
