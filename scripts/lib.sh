# shellcheck shell=bash
# What the scripts share: where things lie, the lock of a name, and how a container begins and ends.
set -euo pipefail

# Whoever reads this file calls it by its real name.
scripts=${BASH_SOURCE[0]%/*}
# Installed, the tools lie beside the scripts; in the source, where scripts/build puts them.
[ -x "$scripts/sbx-ns" ] && PATH=$scripts:$PATH || PATH=$scripts/../target/bin:$PATH

# An ordinary user has a store of his own, for as long as he is logged in.
if [ "$EUID" -ne 0 ]; then
    own=${XDG_RUNTIME_DIR:-/tmp/sbx-$EUID}/sbx
    export SBX_CONFIG_DIR=${SBX_CONFIG_DIR:-$own/config} SBX_STATE_DIR=${SBX_STATE_DIR:-$own/state}
    export SBX_RUNTIME_DIR=${SBX_RUNTIME_DIR:-$own/run}
fi
config=${SBX_CONFIG_DIR:-/etc/sbx}
# shellcheck disable=SC2034 # not every script that reads this file has a use for it
state=${SBX_STATE_DIR:-/var/lib/sbx}
runtime=${SBX_RUNTIME_DIR:-/run/sbx}

die() { # MESSAGE: one line, exit 1
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

wrong_usage() { # MESSAGE: one line, exit 2
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 2
}

has_value() { # OPTION [VALUE...]
    [ $# -ge 2 ] || wrong_usage "option $1 needs a value"
}

# The value of the option $1.
value() {
    has_value "$@"
    printf '%s' "$2"
}

check_name() { # NAME: what every tool takes as one
    [ -n "${1-}" ] || wrong_usage "NAME is missing"
    [[ ${1-} =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$ ]] || wrong_usage "bad container name ${1@Q}"
}

need() { # PROGRAM...: all of them, before anything is done
    local program
    for program; do
        command -v -- "$program" >/dev/null || die "$program is missing"
    done
}

as_root() {
    [ "$EUID" -eq 0 ] || die "must be root"
    need flock setsid jq sbx-unit sbx-label sbx-ns sbx-cg sbx-fs sbx-net sbx-exec
}

# A container is known by its definition, which is the last thing that create makes and the first that delete takes
# away. In between stands the intent, so that whatever is cut short can be found and undone.
definition() { printf '%s' "$config/$1.json"; }
intent() { printf '%s' "$config/.$1.new"; }

defined() { [ -e "$(definition "$1")" ]; }
begun() { [ -e "$(intent "$1")" ]; }

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

# The lock is descriptor 9, until the script and all steps that it has started have ended. What they leave running does
# not have it: a holder closes all that it inherits.
lock() { # NAME
    local file
    file=$(lock_file "$1")
    (umask 077 && mkdir -p -- "$runtime")
    while :; do
        exec 9>>"$file"
        flock -w 120 9 || die "container $1 is busy: another command holds $file"
        # Whoever deletes the container unlinks the file while it holds it: then this is a lock on nothing.
        [ "$file" -ef /dev/fd/9 ] && return
    done
}

# The same, but fails if somebody else has it.
lock_now() { # NAME
    (umask 077 && mkdir -p -- "$runtime")
    exec 9>>"$(lock_file "$1")"
    flock -n 9
}

# No name begins with a dot: it is not the directory of another container.
lock_file() { printf '%s' "$runtime/.$1.lock"; }

unlink_lock() { # NAME: only while holding it
    rm -f -- "$(lock_file "$1")"
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

# Adds to the options of sbx-label alloc what the label is to be.
security() { # SPEC
    case $1 in
    static | dynamic) ;;
    static,label=?*) alloc+=(--label "${1#*,label=}") ;;
    # User, role, type and sensitivity: the categories are chosen.
    dynamic,label=?*) alloc+=(--label "$(cut -d : -f 1-4 <<<"${1#*,label=}")") ;;
    inherit) wrong_usage "-s inherit: a container with the caller's label would not be kept from anything" ;;
    *) wrong_usage "bad SPEC ${1@Q}: static[,label=CONTEXT] or dynamic[,label=CONTEXT]" ;;
    esac
}

# From a definition on stdin to namespaces with networks and mounts, ready to boot: the running document on stdout.
bring_up() {
    pipe "sbx-label relabel" "sbx-cg create" "sbx-ns create" "sbx-net up" "sbx-fs mount"
}

# Everything that a container has while it runs, in reverse; no harm when there is nothing.
tear_down() { # NAME
    local status=0
    sbx-net remove "$1" || status=$?
    sbx-ns remove "$1" || status=$?
    sbx-cg remove "$1" || status=$?
    return "$status"
}

# What a container keeps as long as it is defined.
give_back() { # NAME
    local status=0
    sbx-net remove --addresses "$1" || status=$?
    sbx-ns remove --ids "$1" || status=$?
    sbx-label remove "$1" || status=$?
    return "$status"
}

# Inside a PID namespace of another program's the directory is there too, but nobody to talk to.
runs_systemd() {
    [ -d /run/systemd/system ] && [ "$(cat /proc/1/comm)" = systemd ]
}
