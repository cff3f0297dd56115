# shellcheck shell=bash
# For the tests in the lab in which something breaks. Source it after lib.sh.

# A client that reads without end, in the background: its pid is busy, its words are in $dir/busy-said. Returns once it
# is well under way.
busy_client() {
    [ -e "$dir/share/hole" ] || truncate -s 20G "$dir/share/hole"
    mark_counters
    limit=120 client 'get hole /dev/null' >"$dir/busy-said" 2>&1 &
    busy=$!
    wait_until 30 is_moving || { cat "$dir/busy-said" >&2; fail "the transfer does not get going"; }
}
is_moving() { [ "$(moved)" -gt 4000000 ]; }
# It must end within so many seconds, and with an error.
expect_busy_fails() {  # SECONDS WHAT
    local status=0
    wait_until "$1" is_gone "$busy" || fail "$1 s after $2 the transfer has not noticed"
    wait "$busy" || status=$?
    [ $status != 0 ] || fail "smbclient says that the transfer went well, in spite of: $2"
    [ $status -lt 124 ] || fail "smbclient ended with status $status after: $2"
    echo "$2: smbclient says $(error_in "$dir/busy-said")"
}
end_busy() {
    local pid
    for pid in $(pids_with 'get hole /dev/null'); do kill "$pid" 2>/dev/null || :; done
    wait "$busy" || :
}

# A file there and back over the device, not over anything else.
round_trip_over_verbs() {  # BYTES
    local before
    before=$(engine_counter connections_verbs)
    round_trip "$1"
    [ "$(engine_counter connections_verbs)" -ge $((before + 1)) ] || fail "this did not go over the device"
}

# Runs a command that must end within so many seconds; sets took to what it took, in ms.
within() {  # SECONDS COMMAND...
    local begun=${EPOCHREALTIME/./} seconds=$1
    shift
    timeout --kill-after=5 "$seconds" "$@" || fail "this failed, or took more than $seconds s: $*"
    took=$(((${EPOCHREALTIME/./} - begun) / 1000))
}

traces_say() { grep -qE "$1" "$dir"/trace/*; }  # PATTERN
traces_forget() { rm -f "$dir"/trace/smbclient.*; }

# Ends servers and engine; no object of any RDMA device may be left then.
expect_nothing_left() {
    local server
    for server in "${servers[@]}"; do stop_smbd "${server% *}" "${server##* }"; done
    servers=()
    stop_engine
    wait_until 10 no_engine || fail "the engine does not leave"
    rdma_leaks_none 10
}

# Before use_pair: its wire gets a plug in the middle, so that the devices lose their carrier and nothing else: an address,
# a route or a neighbour that goes with an interface set down is another story. At the end: ip link delete plug.
wire_with_plug() {
    new_netdev() {
        need ip bridge rdma
        need_module veth bridge rdma_ucm ib_uverbs
        ip link delete plug 2>/dev/null || :
        ip link add plug type bridge
        local i
        for i in 0 1; do
            ip link add lab$i type veth peer name plug$i
            ip link set plug$i mtu 9000 master plug up
        done
        ip link set plug up
    }
}
# A cable that is pulled takes the carrier of the client's device. rxe gives up a queue pair that sends then, even that of
# its connection manager; so for it the link breaks within the bridge, where packets are lost and nobody is told.
break_link() {
    if [ "$device" = siw ]; then ip link set plug1 down; else bridge link set dev plug1 state 0; fi
    broken=${EPOCHREALTIME/./}
}
mend_link() { if [ "$device" = siw ]; then ip link set plug1 up; else bridge link set dev plug1 state 3; fi; }
since_broken() { echo "$(((${EPOCHREALTIME/./} - broken) / 1000)) ms"; }
