#!/usr/bin/env bash
# What tpu_vm.sh runs on each machine of a slice:
#
#   worker.sh install SHARE | start [options of lmx train] | stop | state | log
#
# install   lmx, and the disk SHARE at /mnt/lmx       start     lmx train, so that it outlives this connection
# stop      let it finish its step and save           state     running, ended with which code, or not started
# log       all that it has said
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
state=${LMX_STATE:-$HOME/lmx-state} # pid, code and log of the run
venv=${LMX_VENV:-$HOME/lmx-venv}
mount=/mnt/lmx

alive() { [[ -s $state/pid ]] && kill -0 "$(<"$state/pid")" 2>/dev/null; }

install() { # SHARE: a Python that lmx supports, lmx with the TPU's libraries, and the disk that all machines share
    if ! mountpoint -q "$mount"; then
        sudo apt-get install -y -q nfs-common
        sudo mkdir -p "$mount"
        sudo mount -t nfs "$1" "$mount"
        sudo chmod 1777 "$mount" || true # an export may forbid it and be writable all the same
    fi
    python3 -m pip install --quiet --user uv ||
        python3 -m pip install --quiet --user --break-system-packages uv # as newer systems want to be told
    python3 -m uv venv --quiet --allow-existing --python 3.12 "$venv"
    python3 -m uv pip install --quiet --python "$venv/bin/python" "${root}[train,tpu]"
    "$venv/bin/lmx" doctor --workdir "$mount" || echo "what failed above is to be mended first"
}

start() { # ARGUMENTS of lmx train: start it so that it outlives this connection
    if alive; then
        echo "a run is under way here (pid $(<"$state/pid"))" >&2
        exit 1
    fi
    mkdir -p "$state"
    rm -f "$state/code" "$state/pid"
    # nohup: at shutdown a session's processes get SIGTERM and at once SIGHUP, and the second signal would end
    # lmx before it has saved.
    export LMX_PROCESSES=${LMX_PROCESSES:-auto}
    nohup setsid bash "${BASH_SOURCE[0]}" watch "$@" >>"$state/log" 2>&1 </dev/null &
    for _ in {1..50}; do
        [[ ! -s $state/pid ]] || break
        sleep 0.1
    done
    echo "started"
}

watch() { # ARGUMENTS of lmx train: run it and keep its exit code
    trap : TERM # a shutdown signals all processes; this one waits for lmx
    "$venv/bin/python" -m lmx train "$@" &
    echo $! >"$state/pid"
    local code=0
    while wait $! || code=$?; kill -0 $! 2>/dev/null; do code=0; done # a signal ends `wait` early
    echo "$code" >"$state/code"
}

stop() { # let lmx finish its step and save
    if alive; then
        kill -TERM "$(<"$state/pid")"
        for _ in {1..600}; do
            alive || break
            sleep 0.5
        done
    fi
    state
}

state() { # say how the run stands
    if alive; then
        echo "running (pid $(<"$state/pid"))"
    elif [[ -s $state/code ]]; then
        echo "ended with code $(<"$state/code")"
    else
        echo "not started"
    fi
}

log() { cat "$state/log"; }

action=${1:-}
shift || true
case $action-$# in
    -h-* | --help-*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
    install-1 | start-[1-9]* | watch-[1-9]* | stop-0 | state-0 | log-0) "$action" "$@" ;;
    *)
        echo "worker.sh: ${action:-nothing}${*:+ $*} asked; expected install SHARE, start OPTIONS, stop," \
            "state or log" >&2
        exit 2
        ;;
esac
