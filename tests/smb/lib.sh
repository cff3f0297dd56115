# shellcheck shell=bash
# For the tests with the real, unmodified Samba programs. A test is an executable script in this folder that begins with
#     . "$(dirname "$0")/lib.sh"
# and ends with 0 (passed), 77 (skipped; the reason is its last line, after "SKIP: ") or anything else (failed). Each
# has a directory ($dir), a share and port, and an engine of its own, and leaves nothing behind. Set KEEP=1 to keep $dir.
#
# SMBDIRECT_TEST_PLAIN=1 leaves the library out, so that everything goes over TCP: what fails then as well is not ours.

set -Eeuo pipefail
# shellcheck source=../../tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/lib.sh"

test_name=${0##*/}
plain=${SMBDIRECT_TEST_PLAIN:-0}
server_address=127.0.0.1
python=/usr/bin/python3

skip() { printf 'SKIP: %s\n' "$*"; exit 77; }
fail() { printf 'FAIL: %s\n' "$*" >&2; exit 1; }
only_smbdirect() { [ "$plain" = 0 ] || skip "this test is about SMBDIRECT, and SMBDIRECT_TEST_PLAIN is set"; }

# Goes on in a network namespace of its own, with every port to be had; as an ordinary user in a user namespace too.
in_namespace() {
    if [ -z "${SMBDIRECT_TEST_NAMESPACE:-}" ]; then
        export SMBDIRECT_TEST_NAMESPACE=1
        if [ "$(id -u)" = 0 ]; then
            unshare -n true 2>/dev/null || skip "a network namespace is not permitted here"
            exec unshare -n -- "$0" "$@"
        fi
        unshare -Un --map-current-user --keep-caps true 2>/dev/null ||
            skip "a network namespace is not permitted to $(id -un) here"
        exec unshare -Un --map-current-user --keep-caps -- "$0" "$@"
    fi
    ip link set lo up
    [ "$(id -u)" = 0 ] || echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
}

# Goes on where it may mount, for other_samba.
in_mount_namespace() {
    [ -z "${SMBDIRECT_TEST_MOUNTS:-}" ] || return 0
    [ "$(id -u)" = 0 ] || skip "chroot is for root alone"
    unshare -m true 2>/dev/null || skip "a mount namespace is not permitted here"
    SMBDIRECT_TEST_MOUNTS=1 exec unshare -m -- "$0" "$@"
}
# Makes this test's directory and the library known in another system's root file system, whose Samba can then be started
# by (chroot ROOT PROGRAM). The engine needs the libraries it was built with, and is started out here.
other_samba() {  # ROOT
    local place
    for place in "$test_dir" "$(dirname "$library")"; do
        mkdir -p "$1$place"
        mount --bind "$place" "$1$place"
    done
    for place in /proc /dev; do mount --rbind $place "$1$place"; done
    if [ "$plain" = 0 ] && [ -z "$(engine_pids)" ]; then
        "$engine" --foreground >"$test_dir/engine.out" 2>&1 &
        others+=($!)
        wait_until 10 engine_answers || fail "the engine does not start: $(cat "$test_dir/engine.out")"
    fi
}
engine_answers() { "$engine" --counters >/dev/null 2>&1; }

# ---- beginning and end

servers=()  # "directory pid" of each smbd that was started
others=()   # pids of other processes of this test
begin() {
    command -v smbd >/dev/null && command -v smbclient >/dev/null || skip "Samba is not installed"
    if [ "$plain" = 0 ]; then
        [ -e "$library" ] || fail "$library is not built"
        [ -x "$engine" ] || fail "$engine is not built"
    fi
    dir=$(mktemp -d "${TMPDIR:-/tmp}/smbdirect-test-$test_name.XXXXXX")
    test_dir=$dir
    chmod 755 "$dir"
    mkdir -m 1777 "$dir/trace"
    export SMBDIRECT_SOCKET=smbdirect-test-$test_name-$$
    export SMBDIRECT_TRACE=$dir/trace
    export SMBDIRECT_IDLE_EXIT=30
    # Where a sanitized engine (SMBDIRECT_ENGINE) leaves what it finds.
    export ASAN_OPTIONS=log_path=$dir/sanitizer:quarantine_size_mb=4 UBSAN_OPTIONS=log_path=$dir/sanitizer:print_stacktrace=1
    export TSAN_OPTIONS=log_path=$dir/sanitizer
    trap 'end $?' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    trap 'printf "%s: line %s: this failed: %s\n" "$test_name" "$LINENO" "$BASH_COMMAND" >&2' ERR
}
end() {
    local status=$1 server other
    trap '' INT TERM HUP ERR
    set +e
    if [ "$status" != 0 ] && [ "$status" != 77 ]; then tell_the_story >&2; fi
    for other in "${others[@]}"; do kill "$other" 2>/dev/null; done
    for server in "${servers[@]}"; do stop_smbd "${server% *}" "${server##* }"; done
    for other in "${others[@]}"; do wait_until 5 is_gone "$other" || kill -KILL "$other" 2>/dev/null; done
    # A program of this test that hangs.
    signal_all KILL "$test_dir/"
    if [ "$plain" = 0 ]; then
        stop_engine
        if ! wait_until 5 no_engine; then
            echo "FAIL: the engine did not leave when it was told to stop" >&2
            for other in $(engine_pids); do kill -KILL "$other"; done
            [ "$status" != 0 ] || status=1
        fi
    fi
    also_at_end
    if compgen -G "$test_dir/sanitizer.*" >/dev/null; then
        echo 'FAIL: the sanitizer of the engine found something:' >&2
        head -n 40 "$test_dir"/sanitizer.* >&2
        status=1
    fi
    if [ "${KEEP:-0}" = 1 ]; then echo "kept: $test_dir"; else rm -rf "$test_dir"; fi
    exit "$status"
}
# Replaced by who adds to these tests: tests/lab/lib.sh.
also_at_end() { :; }
also_tell() { :; }
tell_the_story() {
    local file
    for file in "$test_dir"/smbd*.out "$test_dir"/*/smbd*.out "$test_dir"/trace/*; do
        [ -s "$file" ] || continue
        printf -- '---- the end of %s\n' "${file#"$test_dir"/}"
        tail -n 12 "$file" | cut -c1-300
    done
    [ "$plain" = 1 ] || { echo '---- counters'; "$engine" --counters; }
    also_tell
}

# ---- server and client

# An smbd of this test with a share in $dir, on a free port unless $port is set; the arguments are lines of [global].
# Where $server_rules or $client_rules are set, they replace the rules that make it SMBDIRECT.
serve() {  # [LINE...]
    port=${port:-$(free_port)}
    make_share "$dir" "$port" "$@"
    launch
}
# Starts an smbd on what make_share made.
launch() {
    local preload=()
    if [ "$plain" = 0 ]; then
        preload=("LD_PRELOAD=$library" "SMBDIRECT_RULES=${server_rules:-listen port=$port also${server_fabric:+ fabric=$server_fabric}}")
    fi
    start_smbd "$dir" "$port" "${preload[@]}" || fail "smbd did not start"
    servers+=("$dir $smbd_pid")
    if [ "$plain" = 0 ] && [ -z "${server_rules:-}" ]; then
        wait_until 10 rdma_listens "$port" || fail "nobody listens for SMBDIRECT where port $port means it"
    fi
}
# Whether SMBDIRECT is listened for where it belongs to a port of TCP.
rdma_listens() { port_listens $(($1 + 5000)); }  # PORT

# A user for the smbd in $dir, which need not run yet. The system has to know one of this name.
add_samba_user() {  # USER PASSWORD
    printf '%s\n' "$2" "$2" | pdbedit -s "$dir/smb.conf" -a -u "$1" -t >"$dir/pdbedit.out" 2>&1 ||
        { tail -n 3 "$dir/pdbedit.out" >&2; return 1; }
}

client_prefix=()  # what a client is started through, such as (ip netns exec NAME)
# Runs any program of Samba with the library, bounded in time. What it says goes to stdout and stderr as ever.
guest() {  # PROGRAM ARGUMENT...
    local preload=()
    if [ "$plain" = 0 ]; then
        preload=("LD_PRELOAD=$library"
            "SMBDIRECT_RULES=${client_rules:-connect port=$port require${fabric:+ fabric=$fabric}}")
    fi
    timeout --kill-after=5 "${limit:-60}" "${client_prefix[@]}" env "${preload[@]}" "$@"
}
client_command=(smbclient)
# smbclient on the share, as guest: commands as one argument, then options.
client() {  # COMMANDS [OPTION...]
    local commands=$1
    shift
    guest "${client_command[@]}" "//$server_address/share" -p "$port" -N -s "$dir/client.conf" "$@" -c "$commands"
}

# ---- what is expected

random_file() { head -c "$2" /dev/urandom >"$1"; }  # FILE BYTES
same() { cmp -- "$1" "$2" || fail "$1 and $2 differ"; }

# A file of so many bytes there and back, compared at both ends.
round_trip() {  # BYTES [OPTION...]
    local bytes=$1
    shift
    random_file "$dir/out" "$bytes"
    rm -f "$dir/in" "$dir/share/file"
    client "put $dir/out file; get file $dir/in" "$@" >"$dir/said" 2>&1 ||
        { cat "$dir/said" >&2; fail "smbclient failed ($bytes bytes $*)"; }
    same "$dir/out" "$dir/share/file"
    same "$dir/out" "$dir/in"
    # The guest account owns what it wrote.
    rm -f "$dir/out" "$dir/in" "$dir/share/file"
}

# What the engine sent in SMB Direct messages since the last mark.
mark_counters() { marked=$([ "$plain" = 1 ] && echo 0 || engine_counter bytes_sent); }
moved() { echo $(($(engine_counter bytes_sent) - marked)); }
expect_moved() {  # BYTES: at least
    [ "$plain" = 0 ] || return 0
    local bytes
    bytes=$(moved)
    [ "$bytes" -ge "$1" ] || fail "the engine moved $bytes bytes over SMBDIRECT, not the $1 that were due"
}

# Bytes of READ and WRITE that went by SMB2 RDMA channel, at every end that is on the engine.
by_channel() { echo $(($(engine_counter channel_bytes_read) + $(engine_counter channel_bytes_written))); }

# Commands that must fail, and soon; what they said is in $dir/said.
expect_failure() {  # COMMAND...
    if "$@" >"$dir/said" 2>&1; then
        cat "$dir/said" >&2
        fail "this should have failed: $*"
    else
        local status=$?
        [ $status != 124 ] && [ $status != 137 ] || fail "this did not end in time: $*"
        [ $status -lt 128 ] || { cat "$dir/said" >&2; fail "this crashed (status $status): $*"; }
    fi
}

# The line of a program's output in which it names its error, or its last.
error_in() { { grep -m1 NT_STATUS "$1" || tail -n 1 "$1"; } | cut -c1-100; }

# fds of a process, as a number; what an engine has open once nobody is connected must not grow.
fd_count() { local fds=(/proc/"$1"/fd/*); echo ${#fds[@]}; }
threads_of() { local tasks=(/proc/"$1"/task/*); echo ${#tasks[@]}; }
no_connections() { [ "$(engine_counter connections_open)" = 0 ]; }
expect_no_connections() {
    [ "$plain" = 1 ] || wait_until "${1:-10}" no_connections ||
        fail "$(engine_counter connections_open) connections are still open though nobody is connected"
}
