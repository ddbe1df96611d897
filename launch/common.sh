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

training() { # WORDS...: refuse what `lmx train` cannot do without, before any machine is asked for
    local missing=()
    [[ " $* " == *" --config"[\ =]* ]] || missing+=("--config is missing: what to train, such as --config quickstart")
    [[ " $* " == *" --workdir"[\ =]* ]] || missing+=("--workdir is missing: the run's folder; the same one resumes")
    ((${#missing[@]} == 0)) || fail "${missing[@]}"
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
