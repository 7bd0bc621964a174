# shellcheck shell=bash
# What the scripts for containers share beside: how a container is defined, begins and ends.
set -euo pipefail

# Whoever reads this file calls it by its real name.
scripts=${BASH_SOURCE[0]%/*}
# shellcheck source=scripts/common.sh
. "$scripts/common.sh"

# The value of the option $1.
value() {
    has_value "$@"
    printf '%s' "$2"
}

need() { # PROGRAM...: all of them, before anything is done
    local program
    for program; do
        command -v -- "$program" >/dev/null || die "$program is missing"
    done
}

as_root() {
    [ "$caller" -eq 0 ] || die "must be root"
    need flock setsid jq sbx-unit sbx-label sbx-ns sbx-cg sbx-fs sbx-net sbx-exec
}

commit() { # NAME: makes the intent the definition, once all of it is on disk; fails if there is one
    sync -f -- "$state/containers/$1"
    sync -- "$(intent "$1")"
    ln -T -- "$(intent "$1")" "$(definition "$1")"
    rm -- "$(intent "$1")"
    sync -- "$config"
}

recommit() { # NAME: the intent takes the definition's place
    sync -- "$(intent "$1")"
    mv -T -- "$(intent "$1")" "$(definition "$1")"
    sync -- "$config"
}

# The lock, for which others are waited for.
lock() { # NAME
    local file
    file=$(lock_file "$1")
    while :; do
        open_lock "$1"
        flock -w 120 9 || die "container $1 is busy: another command holds $file"
        # Whoever deletes the container unlinks the file while it holds it: then this is a lock on nothing.
        [ "$file" -ef /dev/fd/9 ] && return
    done
}

die_unlocked() { # NAME MESSAGE: when the lock is of a container that there is not
    unlink_lock "$1"
    die "$2"
}

# The steps after the one that failed had no document (1), and those before it nobody to read theirs (141).
first_failure() { # STATUS...: of a pipe that has failed, the status of the step that is to blame
    local status
    for status; do
        case $status in
        0 | 141) ;;
        *) printf '%s' "$status" && return ;;
        esac
    done
    printf 1
}

# Runs steps as a pipe; what fails first is the status.
pipe() { # STEP...: a function, or a command in words
    # shellcheck disable=SC2086 # words
    if [ $# -eq 1 ]; then
        $1
    else
        $1 | pipe "${@:2}" || return "$(first_failure "${PIPESTATUS[@]}")"
    fi
}

running() { # NAME: its holder lives, and boot has said that it is ready
    [ -e "$runtime/$1/ready" ] && sbx-ns show "$1" >/dev/null 2>&1
}

# From a definition on stdin to namespaces with networks and mounts, ready to boot: the running document on stdout.
bring_up() {
    pipe "sbx-label relabel" "sbx-cg create" "sbx-ns create" "sbx-net up" "sbx-fs mount"
}

# Inside a PID namespace of another program's the directory is there too, but nobody to talk to.
runs_systemd() {
    [ -d /run/systemd/system ] && [ "$(cat /proc/1/comm)" = systemd ]
}
