#!/usr/bin/env bash
# Train on a slice of Cloud TPU, asked for as a queued resource.
#
#   launch/tpu_vm.sh COMMAND [--dry-run] [options of lmx train, after run and resume]
#
# create    ask for the slice               wait      until it is there
# copy      the code to all its machines    install   lmx on all of them, and mount the shared disk
# run       start lmx train on all of them  state     how it stands on each
# logs      fetch each machine's log        stop      let the run save and stop (exit code 75)
# resume    after a preemption: delete what is dead, then create, wait, copy, install, run
# delete    give the slice back
#
# NAME       a name for the slice
# PROJECT    the Google Cloud project that pays
# ZONE       where, such as us-west4-a
# TOPOLOGY   the slice, such as v5e:4x4
# SHARE      an NFS export, HOST:/PATH (Filestore, say), mounted at /mnt/lmx on all machines: the workdir lies
#            there, for a preempted slice takes its own disks along. Used by install and resume
# SPOT       yes: cheaper, and may be taken away; default: no
# RUNTIME    the machines' software; default: what Google names for the chip
# LOGS       where logs go; default: NAME-logs
# POLL       seconds between two looks while waiting; default: 30
# PYTHON     a Python of this machine, to read the config with where it has lmx, for run and resume; default: python
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options "$@"
steps="create wait copy install run state logs stop resume delete"
action=${arguments[0]:-}
[[ " $steps " == *" ${action:-none} "* ]] || fail "${action:-nothing} asked; expected one of: $steps"
arguments=("${arguments[@]:1}")
case $action in run | resume) ;; *) alone "$action" "${arguments[@]}" ;; esac

wanted=(
    NAME "a name for the slice" lmx-v5e
    PROJECT "the Google Cloud project that pays" my-project
    ZONE "where the slice is to be" us-west4-a
)
case $action in create | resume) wanted+=(TOPOLOGY "the slice" v5e:4x4) ;; esac
case $action in install | resume) wanted+=(SHARE "an NFS export for the workdir" 10.0.0.2:/runs) ;; esac
need "${wanted[@]}"
POLL=${POLL:-30} LOGS=${LOGS:-$NAME-logs}
named 63
[[ $ZONE =~ ^[a-z]+(-[a-z]+)+[0-9]+-[a-z][a-z0-9]*$ ]] || fail "ZONE=$ZONE: expected a zone, such as us-west4-a"
case $action in
    create | resume)
        [[ ${SPOT:-no} =~ ^(yes|no)$ ]] || fail "SPOT=$SPOT: expected yes or no"
        slice "$TOPOLOGY"
        ;;&
    wait | resume) whole POLL 1 ;;&
    create | install | resume)
        [[ -z ${SHARE:-} || $SHARE =~ ^[^/[:space:]]+:/([^/]|$) ]] || fail "SHARE=$SHARE: expected HOST:/PATH"
        ;;&
    run | resume)
        training "${arguments[@]}"
        lasting /mnt/lmx "${arguments[@]}"
        # Names are those of the code that `copy` copies; a file's path is the machines', and not known here.
        [[ $(value --config "${arguments[@]}") == *.py ]] ||
            (cd "$root" && understood "${PYTHON:-python}" "${arguments[@]}")
        ;;
esac
program gcloud "install the Google Cloud CLI and log in"

place=(--project="$PROJECT" --zone="$ZONE")
queue=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)

look=("${queue[@]}" describe "$NAME" "${place[@]}" --format='value(state.state)')

on_all() { # COMMAND [FLAG...]: run it on all machines of the slice
    local command=$1
    shift
    run "${vm[@]}" ssh "$NAME" "${place[@]}" --worker=all --command="$command" "$@"
}

found() { "${look[@]}" || true; } # print the state of the queued resource, or nothing

create() {
    local kind=$chip-$chips runtime=v2-alpha-tpu$chip flags=()
    case $chip in
        v5e) kind=v5litepod-$chips runtime=v2-alpha-tpuv5-lite ;;
        v5p) kind=v5p-$((2 * chips)) runtime=v2-alpha-tpuv5 ;; # named by its cores
    esac
    [[ ${SPOT:-} != yes ]] || flags=(--spot)
    say "$cost on $(counted "$hosts" machine)${SPOT:+, spot=$SPOT}, in $ZONE, until they are deleted"
    run "${queue[@]}" create "$NAME" "${place[@]}" --node-id="$NAME" --accelerator-type="$kind" \
        --runtime-version="${RUNTIME:-$runtime}" ${flags[@]+"${flags[@]}"}
}

wait_for() { # until the slice is there
    local now before=""
    say "+ $(printf '%q ' "${look[@]}")# every $POLL s, until it is ACTIVE"
    [[ -z $dry_run ]] || return 0
    while now=$(found) && [[ $now != ACTIVE ]]; do
        case $now in
            "") fail "no queued resource $NAME in $ZONE; ask for it: launch/tpu_vm.sh create" ;;
            FAILED | SUSPENDING | SUSPENDED) fail "$NAME is $now; go on with: launch/tpu_vm.sh resume" ;;
        esac
        [[ $now == "$before" ]] || say "$NAME is $now"
        before=$now
        sleep "$POLL"
    done
    say "$NAME is ACTIVE"
}

listed() { # print the code's files: what git does not ignore or, without git, all but what runs leave behind
    if [[ $(git -C "$root" rev-parse --show-toplevel 2>/dev/null) == "$root" ]]; then
        git -C "$root" ls-files -z --cached --others --exclude-standard
    else
        (cd "$root" && find . \( -name '.venv*' -o -name __pycache__ -o -path ./runs \) -prune -o -type f -print0)
    fi
}

copy() { # the code, as it stands here
    local archive=lmx.tar.gz
    if [[ -z $dry_run ]]; then
        archive="$(mktemp -d)/lmx.tar.gz"
        listed | tar -C "$root" --null --files-from=- --ignore-failed-read -czf "$archive"
    fi
    run "${vm[@]}" scp "$archive" "$NAME:lmx.tar.gz" "${place[@]}" --worker=all
    [[ -n $dry_run ]] || rm -r "$(dirname "$archive")"
    on_all "rm -rf lmx && mkdir lmx && tar -xzf lmx.tar.gz -C lmx"
}

install() { on_all "bash lmx/launch/worker.sh install $(printf %q "$SHARE")"; }

start() { on_all "bash lmx/launch/worker.sh start $(printf '%q ' "${arguments[@]}")"; }

logs() {
    run mkdir -p "$LOGS"
    on_all "bash lmx/launch/worker.sh log" --output-directory="$LOGS"
    say "one file a machine in $LOGS; the first speaks for all: $LOGS/0.log"
}

remove() { run "${queue[@]}" delete "$NAME" "${place[@]}" --force --quiet; }

resume() {
    local now=SUSPENDED
    [[ -n $dry_run ]] || now=$(found)
    while [[ $now == SUSPENDING ]]; do
        sleep "$POLL"
        now=$(found)
    done
    if [[ $now == ACTIVE ]]; then
        say "$NAME is ACTIVE: nothing is dead, and the run is started where it is not under way"
        start
        return
    fi
    case $now in SUSPENDED | FAILED) remove ;; esac
    case $now in "" | SUSPENDED | FAILED) create ;; esac
    wait_for
    copy
    install
    start
}

case $action in
    wait) wait_for ;;
    run) start ;;
    state | stop) on_all "bash lmx/launch/worker.sh $action" ;;
    delete) remove ;;
    *) "$action" ;;
esac
