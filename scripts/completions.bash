# shellcheck shell=bash
# Completion of the sbx tools, of virt-sandbox-service and of virt-sandbox, for bash: source this file, or install it
# where bash-completion looks, under the name of each command.

# What follows a command and its verb: options, with =KIND if they take a value, and the KIND of its operands.
# Global: bash-completion reads this file inside a function.
declare -gA _sbx_takes=(
    [sbx-label]='--help --version'
    [sbx-label alloc]='--name=NAME --dry-run --type=ANY --file-type=ANY --label=ANY --categories=ANY'
    [sbx-label relabel]='--name=NAME --dry-run'
    [sbx-label check]='NAME'
    [sbx-label list]=''
    [sbx-label remove]='NAME'

    [sbx-ns]='--help --version'
    [sbx-ns plan]='--name=NAME --hostname=ANY --userns=ANY'
    [sbx-ns alloc]='--name=NAME --dry-run'
    [sbx-ns create]='--name=NAME --dry-run --hostname=ANY --userns=ANY --while=ANY --unlisted'
    [sbx-ns show]='NAME'
    [sbx-ns list]=''
    [sbx-ns remove]='--ids NAME'

    [sbx-cg]='--help --version'
    [sbx-cg limit]='--name=NAME --memory=ANY --cpus=ANY --pids=ANY --io-weight=ANY --devices=ANY'
    [sbx-cg create]='--name=NAME --dry-run --memory=ANY --cpus=ANY --pids=ANY --io-weight=ANY --devices=ANY --while=ANY'
    [sbx-cg update]='--name=NAME --dry-run'
    [sbx-cg show]='NAME'
    [sbx-cg freeze]='NAME'
    [sbx-cg thaw]='NAME'
    [sbx-cg kill]='NAME'
    [sbx-cg remove]='NAME'

    [sbx-fs]='--help --version'
    [sbx-fs base]='--name=NAME DIRECTORY'
    [sbx-fs idmap]='--mount=ANY --store=ANY --path=DIRECTORY'
    [sbx-fs layout]='--name=NAME --mount=ANY --store=ANY --path=DIRECTORY'
    [sbx-fs clone]='--name=NAME --dry-run --from=NAME --copy --force --package=ANY --secret=FILE DIRECTORY'
    [sbx-fs mount]='--name=NAME --dry-run --mount=ANY --store=ANY --path=DIRECTORY'
    [sbx-fs resize]='--name=NAME --dry-run'
    [sbx-fs upgrade]='--dry-run NAME'
    [sbx-fs diff]='NAME'
    [sbx-fs export]='--force NAME'
    [sbx-fs import]='--device --name=NAME --store=ANY --path=DIRECTORY'
    [sbx-fs remove]='NAME'

    [sbx-net]='--help --version'
    [sbx-net plan]='--name=NAME --network=ANY --publish=ANY --allow=NAME --egress=ANY'
    [sbx-net up]='--name=NAME --dry-run'
    [sbx-net show]='NAME'
    [sbx-net list]=''
    [sbx-net remove]='--addresses NAME'

    [sbx-unit]='--help --version'
    [sbx-unit read]='--name=NAME UNIT'
    [sbx-unit init]='--name=NAME'
    [sbx-unit command]='--name=NAME --user=USER'
    [sbx-unit write]='--name=NAME --dry-run --scripts=DIRECTORY'
    [sbx-unit remove]='NAME'

    [sbx-exec]='--help --version'
    [sbx-exec profile]='--name=NAME --profile=FILE --cap=ANY --seccomp=FILE --rlimit=ANY --no-new-privs=ANY FILE'
    [sbx-exec run]='--document=ANY --user=ANY --cwd=ANY --env=ANY --preserve-fds=ANY
        --pid-file=FILE --alone --tty --profile=FILE --cap=ANY --seccomp=FILE --rlimit=ANY --no-new-privs=ANY'
    [sbx-exec boot]='--document=ANY --timeout=ANY --wait'
    [sbx-exec stop]='--document=ANY --timeout=ANY'
    [sbx-exec after]='--name=NAME CALL'

    [virt-sandbox-service]='-c=ANY --connect=ANY -h --help --version'
    [virt-sandbox-service create]='-u=UNIT --unitfile=UNIT -C --copy --force -P=ANY --package=ANY --secret=FILE
        --userns=ANY --profile=FILE --cap=ANY --seccomp=FILE --rlimit=ANY --no-new-privs=ANY
        -m=ANY --mount=ANY -i=ANY --imagesize=ANY --store=ANY --root=DIRECTORY -p=DIRECTORY --path=DIRECTORY -s=ANY
        --security=ANY -f=ANY --filetype=ANY -U=USER --uid=USER -G=ANY --gid=ANY --memory=ANY --cpus=ANY --pids=ANY --io-weight=ANY -N=ANY --network=ANY --publish=ANY --allow=NAME --egress=ANY -h --help'
    [virt-sandbox-service clone]='--force --userns=ANY --profile=FILE --cap=ANY --seccomp=FILE --rlimit=ANY --no-new-privs=ANY
        -p=DIRECTORY --path=DIRECTORY -s=ANY --security=ANY -f=ANY --filetype=ANY -N=ANY --network=ANY --publish=ANY --allow=NAME --egress=ANY -h --help NAME'
    [virt-sandbox-service start]='-h --help NAME'
    [virt-sandbox-service stop]='-h --help NAME'
    [virt-sandbox-service enable]='-h --help NAME'
    [virt-sandbox-service disable]='-h --help NAME'
    [virt-sandbox-service list]='-r --running -h --help'
    [virt-sandbox-service execute]='--user=ANY --cwd=ANY --env=ANY -C=COMMAND --command=COMMAND -N --noseclabel -h --help NAME'
    [virt-sandbox-service connect]='-h --help NAME'
    [virt-sandbox-service reload]='-u=UNIT --unitfile=UNIT -h --help NAME'
    [virt-sandbox-service refresh]='-h --help NAME'
    [virt-sandbox-service upgrade]='--dry-run -h --help NAME'
    [virt-sandbox-service diff]='--json -h --help NAME'
    [virt-sandbox-service export]='--force -h --help NAME'
    [virt-sandbox-service import]='--device --userns=ANY --profile=FILE --cap=ANY --seccomp=FILE --rlimit=ANY --no-new-privs=ANY
        -m=ANY --mount=ANY -i=ANY --imagesize=ANY --store=ANY -p=DIRECTORY --path=DIRECTORY
        -s=ANY --security=ANY -f=ANY --filetype=ANY -N=ANY --network=ANY --publish=ANY --allow=NAME --egress=ANY -h --help'
    [virt-sandbox-service set]='--memory=ANY --cpus=ANY --pids=ANY --io-weight=ANY -i=ANY --imagesize=ANY --publish=ANY --allow=NAME --egress=ANY -h --help NAME'
    [virt-sandbox-service delete]='-h --help NAME'

    [virt-sandbox]='-n=ANY --name=ANY -r=DIRECTORY --root=DIRECTORY --home=DIRECTORY --tmp=DIRECTORY --bind=FILE --ro=FILE -m=ANY --mount=ANY
        -i=FILE --include=FILE -I=FILE --includefile=FILE -e=ANY --env=ANY -N=ANY --net=ANY --memory=ANY --pids=ANY
        -p --privileged -S=USER --switchto=USER -s=ANY --security=ANY --x11 --wayland -l --shell -d --debug -c=ANY
        --connect=ANY -h --help -V --version CALL'
)

_sbx_values() { # KIND WORD: what there is of a kind and begins with the word, one a line
    local directory
    case $1 in
    NAME) compgen -G "${SBX_CONFIG_DIR:-/etc/sbx}/$2*.json" | sed 's|.*/||; s|\.json$||' ;;
    UNIT)
        for directory in {/etc,/run,/usr/lib,/lib}/systemd/system; do
            compgen -G "$directory/$2*.service"
        done | sed 's|.*/||; s|@\.service$|@|' | sort -u
        ;;
    COMMAND) compgen -c -- "$2" ;;
    # A command, or what it is called with.
    CALL) compgen -c -- "$2"; compgen -f -- "$2" ;;
    FILE) compgen -f -- "$2" ;;
    DIRECTORY) compgen -d -- "$2" ;;
    USER) compgen -u -- "$2" ;;
    esac
}

_sbx() { # COMMAND WORD PREVIOUS
    local tool=${1##*/} word=$2 previous=$3 verb='' kind='' token options=() verbs=()
    for token in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [ "$token" != -- ] || break
        [ -n "$verb" ] || [ -z "${_sbx_takes["$tool $token"]+.}" ] || verb=$token
    done
    if [ "${token-}" = -- ]; then
        # A command inside, where the programs are the host's; what follows it can be anything.
        kind=FILE
        [ "$previous" != -- ] || kind=COMMAND
    else
        for token in ${_sbx_takes["$tool${verb:+ $verb}"]-}; do
            case $token in
            "$previous"=*) options=() kind=${token#*=}; break ;;
            -*) options+=("${token%%=*}") ;;
            *) kind=$token ;;
            esac
        done
        if [ -z "$verb$kind" ]; then
            for token in "${!_sbx_takes[@]}"; do
                [[ $token != "$tool "* ]] || verbs+=("${token#* }")
            done
        fi
    fi
    case $word in
    -*) mapfile -t COMPREPLY < <(compgen -W "${options[*]}" -- "$word") ;;
    *)
        [[ $kind != @(FILE|DIRECTORY|CALL) ]] || compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -W "${verbs[*]}" -- "$word"; _sbx_values "$kind" "$word")
        ;;
    esac
}
complete -F _sbx virt-sandbox{,-service} sbx-{label,ns,cg,fs,net,unit,exec}
