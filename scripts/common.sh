# shellcheck shell=sh disable=SC2034,SC2154 # what is set for those who read this, and by them
# What all scripts share, in what any sh understands: where things lie, how a script ends, and the lock of a name. Whoever
# reads this file has set scripts to its directory.
set -eu

# Installed, the tools lie beside the scripts; in the source, where scripts/build puts them.
[ -x "$scripts/sbx-ns" ] && PATH=$scripts:$PATH || PATH=$scripts/../target/bin:$PATH
export PATH

# Who the caller is, without a program that says so.
while read -r field _ id _; do
    case $field in
    Uid:) caller=$id ;;
    Gid:) group=$id && break ;;
    esac
done </proc/self/status

# An ordinary user has a store of his own, for as long as he is logged in.
if [ "$caller" -ne 0 ]; then
    own=${XDG_RUNTIME_DIR:-/tmp/sbx-$caller}/sbx
    export SBX_CONFIG_DIR="${SBX_CONFIG_DIR:-$own/config}" SBX_STATE_DIR="${SBX_STATE_DIR:-$own/state}"
    export SBX_RUNTIME_DIR="${SBX_RUNTIME_DIR:-$own/run}"
fi
config=${SBX_CONFIG_DIR:-/etc/sbx}
state=${SBX_STATE_DIR:-/var/lib/sbx}
runtime=${SBX_RUNTIME_DIR:-/run/sbx}

die() { # MESSAGE [STATUS]: one line, whatever it names
    printf '%s: %s\n' "${0##*/}" "$(printf %s "$1" | tr '[:cntrl:]' '?')" >&2
    exit "${2-1}"
}

wrong_usage() { # MESSAGE
    die "$1" 2
}

has_value() { # OPTION [VALUE...]
    [ -n "${2-}" ] || wrong_usage "option $1 needs a value"
}

no_value() { # OPTION=VALUE
    wrong_usage "option ${1%%=*} takes no value"
}

version() { # of the tools, which is this script's too
    numbers=$(sbx-exec --version)
    printf '%s %s\n' "${0##*/}" "${numbers#* }"
}

check_name() { # NAME: what every tool takes as one
    [ -n "${1-}" ] || wrong_usage "NAME is missing"
    case $1 in
    [!A-Za-z0-9]* | *[!A-Za-z0-9_.-]*) wrong_usage "bad container name '$1'" ;;
    esac
    [ ${#1} -le 64 ] || wrong_usage "bad container name '$1'"
}

# A container is known by its definition, which is the last thing that create makes and the first that delete takes
# away. In between stands the intent, so that whatever is cut short can be found and undone.
definition() { printf '%s' "$config/$1.json"; }
intent() { printf '%s' "$config/.$1.new"; }

defined() { [ -e "$(definition "$1")" ]; }
begun() { [ -e "$(intent "$1")" ]; }

# The lock is descriptor 9, until the script and all steps that it has started have ended. What they leave running does
# not have it: a holder closes all that it inherits.
open_lock() { # NAME
    # Where all may make files, such a place could be another's, who would choose what is written to by its name.
    in_tmp=/tmp/sbx-$caller
    case $runtime in
    "$in_tmp"/*)
        (umask 077 && mkdir -- "$in_tmp" 2>/dev/null) || :
        if [ -L "$in_tmp" ] || [ ! -O "$in_tmp" ]; then die "$in_tmp is another's"; fi
        ;;
    esac
    [ -d "$runtime" ] || (umask 077 && mkdir -p -- "$runtime")
    exec 9>>"$(lock_file "$1")"
}

# Fails if somebody else has it.
lock_now() { # NAME
    open_lock "$1"
    flock -n 9
}

# No name begins with a dot: it is not the directory of another container.
lock_file() { printf '%s' "$runtime/.$1.lock"; }

unlink_lock() { # NAME: only while holding it
    rm -f -- "$(lock_file "$1")"
}

# Runs all of some commands for a name; the status is that of the last that failed.
each() { # NAME COMMAND...: in words
    each_status=0 each_name=$1
    shift
    for each_command; do
        $each_command "$each_name" || each_status=$?
    done
    return "$each_status"
}

# Everything that a container has while it runs, in reverse; no harm when there is nothing.
tear_down() { # NAME
    each "$1" "sbx-net remove" "sbx-ns remove" "sbx-cg remove"
}

# What a container keeps as long as it is defined.
give_back() { # NAME
    each "$1" "sbx-net remove --addresses" "sbx-ns remove --ids" "sbx-label remove"
}

# What the label is to be, for sbx-label alloc --label; nothing where all of it is chosen.
security() { # SPEC
    case $1 in
    static | dynamic) ;;
    static,label=?*) printf '%s' "${1#*,label=}" ;;
    # User, role, type and sensitivity: the categories are chosen.
    dynamic,label=?*) printf '%s' "${1#*,label=}" | cut -d : -f 1-4 ;;
    inherit) wrong_usage "-s inherit: a container with the caller's label would not be kept from anything" ;;
    *) wrong_usage "bad SPEC '$1': static[,label=CONTEXT] or dynamic[,label=CONTEXT]" ;;
    esac
}
