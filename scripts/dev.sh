# shellcheck shell=bash disable=SC2034 # what one script has no use for, the other has
# What demo and test share: the packages that they need, and namespaces of their own to run in.
set -euo pipefail

top=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")

# What it takes to build: a C linker, libselinux to link with, libclang for its bindings. What it takes to run: the
# programs that the scripts call, and the systemd that becomes process 1 inside.
build_packages=(gcc libc6-dev libclang-dev libpcre2-dev libselinux1-dev)
run_packages=(iproute2 jq libcap2-bin nftables procps systemd util-linux)

install_packages() { # PACKAGE...: those that are not there yet; none of their services is started or enabled
    local package missing=() policy=/usr/sbin/policy-rc.d ours=''
    for package; do
        dpkg-query -W -f '${db:Status-Status}' -- "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$EUID" -eq 0 ] || { echo "${0##*/}: must be root to install ${missing[*]}" >&2 && exit 1; }
    # The way in which Debian is told not to start what it installs (invoke-rc.d(8)).
    if ! [ -e "$policy" ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
    fi
    local status=0
    {
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
    } >&2 || status=$?
    [ -z "$ours" ] || rm -f -- "$policy"
    if [ -d /run/systemd/system ]; then
        for package in "${missing[@]}"; do
            # Nor at the next boot: the host is to have the program, not a service.
            dpkg-query -L "$package" | grep -E '^(/usr)?/lib/systemd/system/[^@]+\.service$' | while read -r unit; do
                systemctl disable -- "${unit##*/}" >&2 || true
            done
        done
    fi
    return "$status"
}

# Runs the calling script again in mount, PID, IPC and UTS namespaces of its own: a bug in what it tries (an unmount of
# the wrong root, a kill -1, a host name) ends with it and not with the machine. No cgroup namespace: below its root
# alone, a cgroup elsewhere could not be joined.
in_own_namespaces() { # ARGUMENT...: the script's
    [ "${SBX_SAFE-}" != 1 ] || return 0
    SBX_SAFE=1 exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc --ipc --uts -- \
        bash -c '"$@"; exit $?' "${0##*/}" "$0" "$@"
}
