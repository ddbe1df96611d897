#!/usr/bin/env bash
# Submit a training run to Slurm.
#
#   NODES=4 TIME=12:00:00 launch/slurm.sh [--dry-run] --config CONFIG --workdir DIR [any option of lmx train]
#
# NODES      how many nodes
# TIME       how long the job may hold them, as sbatch reads it: 90 (minutes), 12:00:00, 2-00 (days-hours), UNLIMITED;
#            a run that needs longer saves, stops and is queued again
# GPUS       GPUs of each node, if any
# TASKS      processes of each node; default: 1, with all GPUs of its node; with more, each gets its share
# CPUS       cores of each process; default: as Slurm gives them, which may be one
# MEM        memory of each node, such as 200G; default: as Slurm gives it
# MORE       other options of sbatch, parted by spaces: MORE="--exclusive --qos=long"
# PARTITION, ACCOUNT, JOB    as sbatch takes them; JOB is the name, default: lmx
# PYTHON     the Python that has lmx, at the same place on each node; default: python, as found here
# GRACE      seconds between SIGTERM and the end of TIME, to finish a step and save; default: 120
# LOG        the job's output; default: lmx-%j.log in this folder
#
# DIR must lie on a disk that all nodes share. The same one resumes: after a preemption Slurm queues the job
# again by itself, at the end of TIME the job does.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds() { # print how many TIME is, in whole minutes as Slurm counts; 0 where it has no end
    local days=0 parts=()
    [[ ! ${TIME^^} =~ ^(UNLIMITED|INFINITE)$ ]] || TIME=0
    [[ $TIME =~ ^([0-9]{1,6}-)?[0-9]{1,6}(:[0-9]{1,6}){0,2}$ ]] ||
        fail "TIME=$TIME: expected minutes, [hours:]minutes:seconds, days-hours[:minutes[:seconds]] or UNLIMITED"
    IFS=: read -r -a parts <<<"${TIME#*-}"
    [[ $TIME != *-* ]] || days=${TIME%-*}
    [[ $TIME == *-* || ${#parts[@]} == 3 ]] || parts=(0 "${parts[@]}")
    echo $(((10#$days * 1440 + 10#${parts[0]} * 60 + 10#${parts[1]:-0} + (10#${parts[2]:-0} + 59) / 60) * 60))
}

options "$@"
need NODES "how many nodes to ask for" 4 TIME "how long the job may hold them" 12:00:00
TASKS=${TASKS:-1} GRACE=${GRACE:-120} GPUS=${GPUS:-0}
whole NODES 1
whole TASKS 1
whole GRACE 1
whole GPUS 0
[[ -z ${CPUS:-} ]] || whole CPUS 1
((GPUS % TASKS == 0)) || fail "GPUS=$GPUS, TASKS=$TASKS: expected GPUs of a node that divide over its processes"
held=$(seconds)
((GRACE <= 65535)) || fail "GRACE=$GRACE: expected at most 65535, which is all that sbatch takes"
((held == 0 || GRACE < held)) || fail "GRACE=$GRACE, TIME=$TIME: expected fewer seconds than the job's $held"
[[ ${MEM:-1} =~ ^[0-9]+[KMGTkmgt]?[Bb]?$ ]] ||
    fail "MEM=$MEM: expected a node's memory in MB, or with K, M, G or T, such as 64G"
training "${arguments[@]}"
workdir=$(value --workdir "${arguments[@]}")
[[ ! $workdir/ =~ ^/(tmp|var/tmp|dev/shm)/ ]] ||
    fail "--workdir $workdir: each node has that folder to itself; expected one that all of them share"
program sbatch "submit from a machine of the cluster"
PYTHON=${PYTHON:-$(command -v python || command -v python3 || echo python)}
understood "$PYTHON" "${arguments[@]}"

flags=(
    --job-name="${JOB:-lmx}" --nodes="$NODES" --ntasks-per-node="$TASKS" --time="$TIME"
    --requeue --open-mode=append --output="${LOG:-lmx-%j.log}" --signal="TERM@$GRACE"
)
[[ -z ${PARTITION:-} ]] || flags+=(--partition="$PARTITION")
[[ -z ${ACCOUNT:-} ]] || flags+=(--account="$ACCOUNT")
[[ -z ${CPUS:-} ]] || flags+=(--cpus-per-task="$CPUS")
[[ -z ${MEM:-} ]] || flags+=(--mem="$MEM")
read -r -a more <<<"${MORE:-}"
flags+=(${more[@]+"${more[@]}"})
((GPUS == 0)) || flags+=(--gpus-per-node="$GPUS")
((GPUS == 0 || TASKS == 1)) || flags+=(--gpus-per-task="$((GPUS / TASKS))")

cost="no chips, CPUs alone"
((GPUS == 0)) || cost="$(counted $((NODES * GPUS)) chip) ($(counted "$NODES" node) x $GPUS GPUs)"
say "$(counted $((NODES * TASKS)) process processes) on $(counted "$NODES" node), $cost, for up to $TIME"
run sbatch "${flags[@]}" "$here/slurm_job.sh" "$GRACE" "$PYTHON" "${arguments[@]}"
