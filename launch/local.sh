#!/usr/bin/env bash
# Train in several processes on this machine.
#
#   PROCESSES=2 launch/local.sh [--dry-run] --config quickstart --workdir runs/two [any option of lmx train]
#
# PROCESSES  how many
# GPUS       GPUs of each process, if any; the first takes the first ones, of CUDA_VISIBLE_DEVICES where it is set;
#            JAX then takes them or refuses (JAX_PLATFORMS=cuda, where you set no other)
# DEVICES    simulated CPU devices of each process, to try without accelerators
# PYTHON     the Python that has lmx; default: python
# GRACE      seconds from asking a process to end to killing it, once another one died; default: 5
#
# SIGTERM, SIGHUP and Ctrl-C reach every process once: the step is finished and saved, and the exit code is 75.
# A process that dies takes the others with it, and its exit code is that of this script.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "$@"
need PROCESSES "how many processes to start" 2
LMX_LAUNCHER=""
for name in PROCESSES GPUS DEVICES PYTHON; do
    [[ -z ${!name:-} ]] || LMX_LAUNCHER+="$name=$(printf %q "${!name}") "
done
LMX_LAUNCHER+=$(printf %q "$0") # with which lmx names the command that goes on
PYTHON=${PYTHON:-python} GRACE=${GRACE:-5}
whole PROCESSES 1
whole GRACE 0
[[ -z ${GPUS:-} ]] || whole GPUS 1
[[ -z ${DEVICES:-} ]] || whole DEVICES 1
[[ -z ${GPUS:-} || -z ${DEVICES:-} ]] ||
    fail "GPUS=$GPUS, DEVICES=$DEVICES: expected one of them; DEVICES are simulated on the CPU"
gpus=()
if [[ -n ${GPUS:-} ]]; then
    [[ ${JAX_PLATFORMS:-} != cpu ]] || fail "GPUS=$GPUS, JAX_PLATFORMS=cpu: expected one of them; unset the other"
    given=${CUDA_VISIBLE_DEVICES-$(seq -s, 0 $((PROCESSES * GPUS - 1)))}
    IFS=, read -r -a gpus <<<"$given"
    ((${#gpus[@]} >= PROCESSES * GPUS)) ||
        fail "PROCESSES=$PROCESSES, GPUS=$GPUS: CUDA_VISIBLE_DEVICES=$given has fewer than $((PROCESSES * GPUS))"
    export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda} # or JAX would take the CPU where it finds no GPU
fi
if [[ -n ${DEVICES:-} ]]; then
    export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi
training "${arguments[@]}"
dry_run="" program "$PYTHON" "name the Python that has lmx: PYTHON=.venv/bin/python"

free_port() { # print a port on which nobody listens
    local port
    while port=$((20000 + RANDOM % 30000)) && (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

child() { # INDEX: become that process
    export LMX_PROCESS=$1
    if [[ -n ${GPUS:-} ]]; then
        CUDA_VISIBLE_DEVICES=$(
            IFS=,
            echo "${gpus[*]:$1*GPUS:GPUS}"
        )
        export CUDA_VISIBLE_DEVICES
    fi
    (($1 == 0)) || exec > >(sed -u "s/^/[$1] /" >&2) 2>&1
    exec "$PYTHON" -m lmx train "${arguments[@]}"
}

LMX_COORDINATOR=${LMX_COORDINATOR:-localhost:$(free_port)}
export LMX_COORDINATOR LMX_LAUNCHER LMX_PROCESSES=$PROCESSES
devices="the devices of this machine"
[[ -z ${DEVICES:-} ]] || devices="$DEVICES simulated devices each"
[[ -z ${GPUS:-} ]] || devices="$(counted $((PROCESSES * GPUS)) chip) of this machine"
say "$(counted "$PROCESSES" process processes) on $devices; nothing is rented"
say "+ LMX_COORDINATOR=$LMX_COORDINATOR LMX_PROCESSES=$PROCESSES LMX_PROCESS=0..$((PROCESSES - 1))" \
    "${JAX_PLATFORMS:+JAX_PLATFORMS=$JAX_PLATFORMS }$(printf '%q ' "$PYTHON" -m lmx train "${arguments[@]}")"
[[ -z $dry_run ]] || exit 0

pids=() # of those that have not ended
tell_all() { # SIGNAL: send it to each of them
    local pid
    for pid in ${pids[@]+"${pids[@]}"}; do kill -s "$1" "$pid" 2>/dev/null || true; done
}
asked=""
for name in INT TERM HUP; do
    # shellcheck disable=SC2064 # the name of now
    trap "asked=yes; tell_all $name" "$name"
done

set -m # each process is a group of its own, so that the terminal's Ctrl-C comes through this script alone
for ((i = 0; i < PROCESSES; i++)); do
    [[ -z $asked ]] || break
    child "$i" </dev/null &
    pids[i]=$!
done
set +m # or bash tells of each process's end as of a job's

code=0 deadline=""
while ((${#pids[@]})); do
    for i in "${!pids[@]}"; do
        ! kill -0 "${pids[i]}" 2>/dev/null || continue
        status=0
        wait "${pids[i]}" 2>/dev/null || status=$?
        unset "pids[i]"
        ((status == 0 || (code != 0 && code != 75))) || code=$status
        if [[ -z $deadline ]] && ((status != 0 && status != 75)); then
            on=""
            ((status == 2)) || on=" (the same command goes on from the newest checkpoint)"
            say "process $i ended with code $status; so do the others$on"
            deadline=$((SECONDS + GRACE))
            tell_all TERM
        fi
    done
    if [[ -n $deadline ]] && ((SECONDS >= deadline)); then
        for pid in ${pids[@]+"${pids[@]}"}; do kill -KILL -- "-$pid" 2>/dev/null || true; done
    fi
    ((${#pids[@]} == 0)) || sleep 0.2 || true # a signal to the whole group ends it, too
done
exit "$code"
