# shellcheck shell=bash
# What quickstart, the tests with the real Samba and the benchmark share: a throw-away smbd and the engine's counters.
# Sourced by bash scripts that run under `set -euo pipefail`. Everything that is started here is known by its pid or by
# the throw-away directory in its arguments, and nothing else is ever ended.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${SMBDIRECT_BUILD:-$root/build}
# shellcheck disable=SC2034  # for those who source this
library=$build/preload/libsmbdirect.so
engine=${SMBDIRECT_ENGINE:-$build/tools/smbdirectd}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin  # smbd is no command for an ordinary user
export PATH

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# ---- building ------------------------------------------------------------------------------------------------------

# Configures DIR where that was not done yet, and builds the targets (without one: everything).
build_in() {  # DIR "MESON OPTIONS" [TARGET...]
    local dir=$1 options=$2
    shift 2
    if [ ! -f "$dir/build.ninja" ]; then
        # shellcheck disable=SC2086
        meson setup ${options} "$dir" "$root" ||
            die "meson could not configure $dir (its words are above); if a package is missing, tools/install-dependencies brings it"
    fi
    ninja -C "$dir" "$@" || die "the build in $dir failed; the compiler's words are above"
}

# ---- waiting and looking -------------------------------------------------------------------------------------------

# Until the command succeeds, or SECONDS have passed.
wait_until() {  # SECONDS COMMAND...
    local deadline=$((SECONDS + $1 + 1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}

# Whether some socket of this network namespace listens on the port, seen without connecting to it.
port_listens() {  # PORT
    local hex tables=(/proc/net/tcp)
    [ ! -e /proc/net/tcp6 ] || tables+=(/proc/net/tcp6)
    hex=$(printf '%04X' "$1")
    awk -v port=":$hex\$" '$4 == "0A" && $2 ~ port { found = 1 } END { exit !found }' "${tables[@]}"
}

# A port that is free together with the RDMA port that belongs to it (P+5000), both below the ephemeral ones.
free_port() {
    local port
    while :; do
        port=$((14451 + RANDOM % 12000))
        if ! port_listens $port && ! port_listens $((port + 5000)); then echo $port; return; fi
    done
}

# The processes that have WORD in their arguments, but for this script and what started it.
pids_with() {  # WORD
    local file pid arguments
    for file in /proc/[0-9]*/cmdline; do
        pid=${file#/proc/}; pid=${pid%/cmdline}
        case $pid in "$$" | "$PPID" | "$BASHPID") continue ;; esac
        mapfile -d '' -t arguments 2>/dev/null <"$file" || continue
        case "${arguments[*]}" in *"$1"*) echo "$pid" ;; esac
    done
} 2>/dev/null

is_alive() {  # PID
    local state
    state=$(sed -n 's/.*) \(.\) .*/\1/p' "/proc/$1/stat" 2>/dev/null) || return 1
    [ -n "$state" ] && [ "$state" != Z ]
}
is_gone() { ! is_alive "$1"; }

# Clock ticks of CPU that a process and its children that it has waited for used.
cpu_ticks() {  # PID...
    local pid sum=0 fields
    for pid; do
        fields=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) || continue
        # shellcheck disable=SC2086
        set -- $fields
        sum=$((sum + ${12} + ${13} + ${14} + ${15}))
    done
    echo $sum
}

# Free bytes where a directory lies; for one in memory no more than the memory that is free.
free_bytes() {  # DIRECTORY
    local bytes memory
    bytes=$(($(df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }') * 1024)) || return 1
    if [ "$(stat -f -c %T "$1")" = tmpfs ]; then
        # What is needed for everything else that runs is left: half a GiB.
        memory=$(($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) * 1024 - 536870912))
        [ "$memory" -ge "$bytes" ] || bytes=$memory
    fi
    echo "$bytes"
}

# The first directory that has room for so many bytes: memory, else the temporary directory. Prints nothing if none has.
roomy_directory() {  # BYTES
    local directory bytes
    for directory in /dev/shm "${TMPDIR:-/tmp}" /var/tmp; do
        [ -w "$directory" ] || continue
        bytes=$(free_bytes "$directory") || continue
        if [ "$bytes" -ge "$1" ]; then echo "$directory"; return; fi
    done
}

# ---- Samba ---------------------------------------------------------------------------------------------------------

share_interfaces=lo  # where smbd listens
# A whole smb.conf for an smbd that touches nothing outside DIR; further arguments are lines of [global].
make_share() {  # DIR PORT [LINE...]
    local dir=$1 port=$2 line
    shift 2
    mkdir -p "$dir/state/ncalrpc" "$dir/share"
    chmod 755 "$dir" "$dir/state"
    chmod 1777 "$dir/share"
    {
        printf '[global]\n'
        printf '    %s\n' "server role = standalone server" "smb ports = $port" "interfaces = $share_interfaces" \
            "bind interfaces only = yes" "map to guest = Bad User" "log file = $dir/state/log" \
            "ncalrpc dir = $dir/state/ncalrpc"
        for line in lock state cache pid; do printf '    %s directory = %s\n' $line "$dir/state"; done
        printf '    private dir = %s\n' "$dir/state"
        for line; do printf '    %s\n' "$line"; done
        printf '[share]\n    path = %s\n    guest ok = yes\n    read only = no\n' "$dir/share"
    } >"$dir/smb.conf"
    cp "$dir/smb.conf" "$dir/client.conf"  # smbd and its helpers are known by the other name
}

smbd_command=(smbd)  # another one is tried by setting this

# Starts smbd on DIR/smb.conf in a session of its own: at its end smbd signals its whole process group. Sets smbd_pid.
# The arguments after DIR are put into its environment.
start_smbd() {  # DIR PORT [NAME=VALUE...]
    local dir=$1 port=$2
    shift 2
    setsid env "$@" "${smbd_command[@]}" -F --no-process-group -s "$dir/smb.conf" --log-basename="$dir/state" \
        </dev/null >>"$dir/smbd.out" 2>&1 &
    smbd_pid=$!
    disown "$smbd_pid"  # its end is no news for the terminal
    if ! wait_until 30 smbd_listens "$port" || is_gone "$smbd_pid"; then
        printf 'smbd did not start to listen on port %s. Its last words:\n' "$port" >&2
        tail -n 15 "$dir/smbd.out" "$dir/state/log" >&2 2>/dev/null || :
        return 1
    fi
}
smbd_listens() { is_gone "$smbd_pid" || port_listens "$1"; }

# Ends the smbd of DIR with all its children and helpers.
stop_smbd() {  # DIR PID
    local dir=$1 pid=$2
    kill -TERM "$pid" 2>/dev/null || :
    wait_until 10 is_gone "$pid" || kill -KILL "$pid" 2>/dev/null || :
    # The RPC helpers have sessions of their own and would wait for work for another minute.
    signal_all TERM "$dir/smb.conf"
    wait_until 5 nothing_runs_with "$dir/smb.conf" || signal_all KILL "$dir/smb.conf"
}
signal_all() {  # SIGNAL WORD
    local other
    for other in $(pids_with "$2"); do kill -"$1" "$other" 2>/dev/null || :; done
}
nothing_runs_with() { [ -z "$(pids_with "$1")" ]; }

# ---- the engine ----------------------------------------------------------------------------------------------------

# One counter of the running engine; 0 where none runs.
engine_counter() {  # NAME
    { "$engine" --counters 2>/dev/null || :; } | awk -v name="$1" '$1 == name { value = $2 } END { print value == "" ? 0 : value }'
}

# The processes of the engine with this meeting socket name, of this user: the monitor and the engine proper.
engine_pids() {
    local exe pid environment
    for exe in /proc/[0-9]*/exe; do
        [ "$exe" -ef "$engine" ] || continue
        pid=${exe#/proc/}; pid=${pid%/exe}
        mapfile -d '' -t environment <"/proc/$pid/environ" || continue
        case " ${environment[*]} " in
            *" SMBDIRECT_SOCKET=${SMBDIRECT_SOCKET:-} "*) echo "$pid" ;;
            *" SMBDIRECT_SOCKET="*) ;;
            *) [ -n "${SMBDIRECT_SOCKET:-}" ] || echo "$pid" ;;
        esac
    done
} 2>/dev/null
no_engine() { [ -z "$(engine_pids)" ]; }

stop_engine() {
    [ -x "$engine" ] || return 0
    "$engine" --stop >/dev/null 2>&1 || :
}
