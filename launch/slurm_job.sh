#!/usr/bin/env bash
# What slurm.sh submits; Slurm runs it on the job's first node: slurm_job.sh GRACE PYTHON [options of lmx train]
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2s/^# //p' "$0"
    exit 0
elif (($# < 2)) || [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "slurm_job.sh: expected GRACE, PYTHON and a job of Slurm around it; submit one with launch/slurm.sh" >&2
    exit 2
fi
grace=$1 python=$2
shift 2

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export LMX_COORDINATOR="${nodes%%$'\n'*}:$((20000 + SLURM_JOB_ID % 30000))" LMX_PROCESSES=$SLURM_NTASKS

# Slurm signals the steps itself. This shell must only live until they have saved, and pass nothing on:
# a second signal would end a process before it has saved.
trap : TERM
# shellcheck disable=SC2016 # SLURM_PROCID is known in each process only
srun --kill-on-bad-exit=0 --wait=60 \
    bash -c 'LMX_PROCESS=$SLURM_PROCID exec "$0" -m lmx train "$@"' "$python" "$@" &
code=0
while wait $! || code=$?; kill -0 $! 2>/dev/null; do code=0; done # a signal ends `wait` early

# Stopped and saved, and the time is up: again. Where Slurm preempts the job it queues it again by itself, and
# where somebody cancelled it, it stays so.
if ((code == 75)) && ((${SLURM_JOB_END_TIME:-0} > 0 && $(date +%s) > SLURM_JOB_END_TIME - grace - 60)); then
    echo "time is up; the run is saved and queued again"
    scontrol requeue "$SLURM_JOB_ID"
elif ((code == 75)) && [[ -z ${SLURM_JOB_END_TIME:-} ]]; then
    echo "the run is saved; this Slurm does not say when the job's time is up, so that it is not queued again:" \
        "submit it again"
fi
exit "$code"
