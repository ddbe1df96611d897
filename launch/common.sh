# shellcheck shell=bash
# shellcheck disable=SC2034 # what it sets, the scripts that source it use
# What the scripts of this folder share.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
root="$(dirname "$here")"
dry_run=""
arguments=()

# The shapes in which slices come: those that Google gives for a number of chips.
flat="1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
deep="2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16"

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || {
    echo "${0##*/}: needs bash 4.4 or newer, this is $BASH_VERSION" >&2
    exit 2
}

fail() { # LINE...: say what is wrong and end with the exit code of a user's mistake
    printf '%s\n' "${@/#/"${0##*/}: "}" >&2
    exit 2
}

say() { printf '%s\n' "$*" >&2; }

options() { # ARGUMENT...: take --dry-run and --help, wherever they stand; keep the rest
    local word
    for word in "$@"; do
        case $word in
            --dry-run) dry_run=yes ;;
            -h | --help)
                sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
                exit 0
                ;;
            *) arguments+=("$word") ;;
        esac
    done
}

need() { # NAME WHAT EXAMPLE, any number of times: refuse all the variables that are not set, at once
    local missing=()
    while (($#)); do
        [[ -n ${!1:-} ]] || missing+=("$1 is not set: $2, such as $1=$3")
        shift 3
    done
    ((${#missing[@]} == 0)) || fail "${missing[@]}"
}

whole() { # NAME LEAST: refuse a variable that is no whole number of at least LEAST
    if ! [[ ${!1} =~ ^(0|[1-9][0-9]{0,8})$ ]] || ((${!1} < $2)); then
        fail "$1=${!1}: expected a whole number of at least $2"
    fi
}

program() { # NAME WHERE-FROM: refuse to begin without a command; a dry run needs none
    [[ -n $dry_run ]] || command -v "$1" >/dev/null || fail "$1 was not found; $2"
}

spelled() { # NAME PATTERN EXPECTED: refuse a variable that is not what the whole pattern allows
    [[ ${!1} =~ ^($2)$ ]] || fail "$1=${!1}: expected $3"
}

named() { # MOST: refuse a NAME that clouds do not take
    spelled NAME "[a-z]([-a-z0-9]{0,$(($1 - 2))}[a-z0-9])?" \
        "small letters, digits and -, at most $1, a letter first and no - at the end"
}

alone() { # COMMAND WORD...: refuse words after a command that takes none
    (($# == 1)) || fail "$1 takes no other words, got: ${*:2}; what it needs it takes from variables, see --help"
}

value() { # OPTION WORDS...: print what the words give the option, or nothing
    local option=$1 found=""
    shift
    while (($#)); do
        case $1 in
            "$option") found=${2:-} ;;
            "$option="*) found=${1#*=} ;;
        esac
        shift
    done
    printf '%s' "$found"
}

training() { # WORDS...: refuse what `lmx train` cannot do without, before any machine is asked for
    local missing=()
    [[ -n $(value --config "$@") ]] || missing+=("--config is missing: what to train, such as --config quickstart")
    [[ -n $(value --workdir "$@") ]] || missing+=("--workdir is missing: the run's folder; the same one resumes")
    ((${#missing[@]} == 0)) || fail "${missing[@]}"
}

lasting() { # FOLDER WORDS...: refuse a workdir outside the one folder that outlives a preempted machine
    local workdir
    workdir=$(value --workdir "${@:2}")
    [[ $workdir/ == "$1"/* && $workdir/ != */../* ]] ||
        fail "--workdir $workdir: expected a folder in $1, such as $1/mine; all else is lost with a preempted machine"
}

understood() { # PYTHON WORDS...: refuse what lmx refuses by the words alone, where that Python has lmx; no JAX starts
    local told code=0
    told=$(
        "$1" - "${@:2}" 2>&1 >/dev/null <<'PYTHON'
import os
import sys
from lmx import __main__ as program
from lmx.commands import train
from lmx.core import config, errors

def read(options, fields):
    try:
        asked = config.load(options.config)
    except errors.UserError:
        if os.path.isfile(options.config):  # it may need what only the machines have
            return
        raise
    config.override(asked, fields)
    config.check(config.plain(asked))

train.run = read
sys.exit(program.main(["train", *sys.argv[1:]]))
PYTHON
    ) || code=$?
    told=${told##*$'\n'} # warnings may go before it
    [[ $code != 2 || $told != "lmx train: "* ]] || fail "$told"
}

counted() { # NUMBER NAME [NAMES]: print the number with its noun
    if (($1 == 1)); then echo "$1 $2"; else echo "$1 ${3:-$2s}"; fi
}

slice() { # TOPOLOGY: set chip, shape, chips, cost, and hosts, the machines that Cloud TPU puts them in
    chip=${1%%:*} shape=${1#*:}
    local shapes=$flat
    [[ $chip =~ ^v(5e|5p|6e)$ ]] || fail "TOPOLOGY=$1: expected v5e, v5p or v6e and a shape, such as v5e:4x4"
    [[ $chip != v5p ]] || shapes=$deep
    [[ " $shapes " == *" $shape "* ]] || fail "TOPOLOGY=$1: $chip comes in the shapes $shapes"
    chips=$((${shape//x/*}))
    hosts=$(((chips + 3) / 4))
    [[ $chip == v5p ]] || ((chips != 8)) || hosts=1
    cost="$(counted "$chips" chip) of $chip ($1)"
}

run() { # COMMAND...: print a command and run it; in a dry run print it only
    say "+ $(printf '%q ' "$@")"
    [[ -n $dry_run ]] || "$@"
}
