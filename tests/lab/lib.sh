# shellcheck shell=bash
# For the tests that run in the lab's guest. A test is an executable script in tests/lab/cases that begins like this:
#
#     #!/usr/bin/env bash
#     # What it shows.
#     # devices: rxe siw          (over which it is run, one after the other; both without this line)
#     # limit: 60                 (seconds; 180 without this line)
#     . "$(dirname "$0")/../lib.sh"
#     begin
#     use_device
#
# All of tests/smb/lib.sh is there: serve, client, round_trip, expect_moved, skip, fail, wait_until. $device is the kind
# (rxe or siw), $dir the test's own directory, which goes away, and $LAB_OUT one whose content comes back.
# README.md beside this file says more.

[ -n "${LAB_DEVICE:-}" ] || { echo "${0##*/} runs in the lab's guest alone: tests/lab/run ${0##*/}" >&2; exit 2; }
# shellcheck source=../smb/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../smb/lib.sh"
# shellcheck source=peers.sh
. "$(dirname "${BASH_SOURCE[0]}")/peers.sh"

device=$LAB_DEVICE

need() {  # COMMAND...
    local command
    for command; do command -v "$command" >/dev/null || skip "$command is not installed"; done
}
need_module() {  # MODULE...
    local module
    for module; do modprobe "$module" || skip "this kernel has no module $module"; done
}

# ---- devices

# An RDMA device on a dummy network device. Both ends of a connection are on this one device: rxe loops back by itself,
# the TCP of siw goes through lo, and only that can be captured. For what needs no more than a device.
use_device() {  # [MTU]
    name_server
    client_address=$server_address client_address6=$server_address6 client_rdma_device=$rdma_device
    new_netdev lab0 dummy
    bring_up lab0 "${1:-9000}" $server_address/24 $server_address6/64
    new_rdma_device "$rdma_device" lab0
    await_gid "$rdma_device" $server_address
    mark_resources
}

# Two RDMA devices with a wire between them: veth devices, lab0 of the server and lab1 of the client. TCP, rxe and siw all
# take this wire, and it can be captured. Both ends are in the one network namespace that the guest has, since the rxe,
# cifs and ksmbd of older kernels know no other; so routes have to say that the other end is not here.
use_pair() {  # [MTU]
    name_server
    client_address=192.0.2.2 client_address6=2001:db8::2 client_rdma_device=${device}1
    new_netdev lab0 veth peer name lab1
    bring_up lab0 "${1:-9000}" $server_address/32 $server_address6/128
    bring_up lab1 "${1:-9000}" $client_address/32 $client_address6/128
    route_by_wire -4 $server_address $client_address
    route_by_wire -6 $server_address6 $client_address6
    new_rdma_device "$rdma_device" lab0
    new_rdma_device "$client_rdma_device" lab1
    await_gid "$rdma_device" $server_address
    await_gid "$client_rdma_device" $client_address
    mark_resources
}

# shellcheck disable=SC2034  # for the tests, and for tests/smb/lib.sh and tools/lib.sh
name_server() {
    server_address=192.0.2.1 server_address6=2001:db8::1 rdma_device=${device}0 share_interfaces=lab0
}
new_netdev() {  # NETDEV TYPE [ARGUMENT...]
    need ip rdma
    need_module "$2" rdma_ucm ib_uverbs
    ip link add "$1" type "${@:2}"
}
bring_up() {  # NETDEV MTU ADDRESS/LENGTH ADDRESS6/LENGTH
    # Packets from an address of our own may come in by a wire here.
    echo 1 >"/proc/sys/net/ipv4/conf/$1/accept_local"
    echo 0 >"/proc/sys/net/ipv4/conf/$1/rp_filter"
    ip link set "$1" mtu "$2" up
    ip address add "$3" dev "$1"
    ip address add "$4" dev "$1" nodad  # usable at once
}
# The kernel looks for addresses of its own first, before all rules. Here that comes last for what goes out, and remains
# the first thing for what comes in. tests/lab/guest puts it back after the test.
route_by_wire() {  # -4|-6 SERVER CLIENT
    ip "$1" rule add pref 10 iif lab0 lookup local
    ip "$1" rule add pref 10 iif lab1 lookup local
    # The engine knocks at a listener from an address of loopback.
    if [ "$1" = -4 ]; then ip -4 rule add pref 15 from 127.0.0.0/8 lookup local; else ip -6 rule add pref 15 from ::1 lookup local; fi
    ip "$1" rule add pref 20 to "$2" lookup 101
    ip "$1" rule add pref 20 to "$3" lookup 102
    ip "$1" route add "$2" dev lab1 src "$3" table 101
    ip "$1" route add "$3" dev lab0 src "$2" table 102
    # cifs.ko waits no more than 5 s for a neighbour, which is not much for a first packet on a busy machine.
    ip "$1" neighbour replace "$2" lladdr "$(cat /sys/class/net/lab0/address)" dev lab1 nud permanent
    ip "$1" neighbour replace "$3" lladdr "$(cat /sys/class/net/lab1/address)" dev lab0 nud permanent
    ip "$1" rule add pref 30 lookup local
    ip "$1" rule del pref 0
}
new_rdma_device() {  # RDMA-DEVICE NETDEV
    case $device in
        rxe) need_module rdma_rxe ;;
        siw) need_module siw ;;
    esac
    rdma link add "$1" type "$device" netdev "$2" || fail "no $device device can be made on $2"
    wait_until 10 is_active "$1" || fail "$1 does not become active"
}
is_active() { rdma link show "$1/1" | grep 'state ACTIVE' >/dev/null; }
# RoCE addresses are entries of a table that a kernel worker fills in its own time; iWARP knows none.
await_gid() {  # RDMA-DEVICE ADDRESS
    local a b c d
    [ "$device" = rxe ] || return 0
    IFS=. read -r a b c d <<<"$2"
    wait_until 10 has_gid "$1" "$(printf 'ffff:%02x%02x:%02x%02x' "$a" "$b" "$c" "$d")" || fail "$1 has no GID for $2"
}
has_gid() { grep -qs "$2\$" "/sys/class/infiniband/$1/ports/1/gids/"?; }

# ---- looking

# The port at which SMBDIRECT is listened for, where a program means PORT.
rdma_port_of() {  # PORT
    case $device:$1 in
        rxe:5445) echo 445 ;;
        rxe:*) echo "$1" ;;
        siw:445 | siw:5445) echo 5445 ;;
        siw:*) echo $(($1 + 5000)) ;;
    esac
}
# Whether somebody listens on a port of RDMA: it is no socket's port, so that only the RDMA subsystem knows it.
cm_listens() { rdma resource show cm_id | grep "state LISTEN .*src-addr [^ ]*:$1 " >/dev/null; }  # RDMA-PORT
# What `serve` waits for.
rdma_listens() {  # PORT
    if [ "${server_fabric:-verbs}" = verbs ]; then cm_listens "$(rdma_port_of "$1")"; else port_listens $(($1 + 5000)); fi
}

# All objects of all RDMA devices but the kernel's own, without the fields that change by themselves.
resources() {  # [TYPE...]
    local type
    for type; do rdma resource show "$type" | sed "s/^/$type /"; done |
        sed -E 's/ (state|sq-psn|rq-psn|path-mig-state|users) [^ ]+//g; s/ +$//; / comm \[ib_core\]$/d' | sort
}
resource_types=(qp cm_id mr pd cq)
# What is there now is no leak later. use_device and use_pair call it; call it again when a server listens, for example.
mark_resources() { marked_resources=$(resources "${resource_types[@]}"); }
leaked_resources() { comm -13 <(echo "$marked_resources") <(resources "${resource_types[@]}"); }
nothing_leaked() {
    leaked=$(leaked_resources)
    [ -z "$leaked" ]
}
# Fails if RDMA objects that were not there at the last mark are still there after so many seconds.
rdma_leaks_none() {  # [SECONDS]
    wait_until "${1:-10}" nothing_leaked || {
        printf '%s\n' "$leaked" >&2
        fail "$(wc -l <<<"$leaked") RDMA objects are left over"
    }
}

# Sum of a counter over the ports of a device, such as sent_pkts of rxe; 0 where there is none of this name.
rdma_counter() {  # RDMA-DEVICE NAME
    cat "/sys/class/infiniband/$1/ports/"*/hw_counters/"$2" 2>/dev/null | awk '{ sum += $1 } END { print sum + 0 }'
}

# ---- captures

# Captures until the end of the test or capture_end, into $LAB_OUT/NAME.pcapng; returns once it captures. Without an
# interface: the wire of use_pair, or lo, where the TCP of siw goes by after use_device.
capture_begin() {  # [NAME [INTERFACE]]
    local interface=${2:-}
    need dumpcap
    if [ -z "$interface" ]; then
        interface=lo
        [ ! -e /sys/class/net/lab1 ] || interface=lab0
        [ "$interface$device" != lorxe ] || fail "a single rxe device cannot be captured; use_pair"
    fi
    capture_name=${1:-capture}
    # Into memory first: the way to LAB_OUT is slow.
    dumpcap -q -i "$interface" -B 64 -w "$dir/$capture_name.pcapng" >"$dir/dumpcap.out" 2>&1 &
    capture_pid=$!
    others+=("$capture_pid")
    wait_until 20 grep -q '^File:' "$dir/dumpcap.out" || { cat "$dir/dumpcap.out" >&2; fail "dumpcap does not capture on $interface"; }
}
# Ends it, and sets capture to the file's name.
capture_end() {
    local mark=end-of-capture-$RANDOM
    capture=$test_dir/$capture_name.pcapng
    # dumpcap does not read on when it is told to end: a last packet shows that all those before it are in the file.
    echo $mark >/dev/udp/$server_address/9 || :
    wait_until 10 grep -qa $mark "$capture" || echo 'the capture may lack its last packets'
    kill -TERM "$capture_pid" 2>/dev/null
    wait "$capture_pid" || :
    capture_pid=''
    grep -q 'dropped.*: [0-9]*/0 ' "$dir/dumpcap.out" || echo "the capture lost packets: $(tail -n 1 "$dir/dumpcap.out")"
}
capture_pid=''
# The frames of the last capture that a display filter of Wireshark's finds, as a number.
frames() {  # FILTER
    tshark -r "$capture" -o tcp.try_heuristic_first:TRUE -Y "$1" -T fields -e frame.number 2>"$dir/tshark.out" | wc -l
}

# What RDMA Read Responses and RDMA Writes carried in the last capture, as two numbers of bytes.
rdma_payload() {
    local filter='infiniband && !icmp' fields=(infiniband.bth.opcode udp.length)
    [ "$device" = rxe ] || { filter=iwarp_rdma; fields=(iwarp_rdma.opcode iwarp_mpa.ulpdulength); }
    # Another dissector claims TCP port 5445. A TCP segment may hold several FPDUs.
    tshark -r "$capture" -o tcp.try_heuristic_first:TRUE --disable-protocol artemis -Y "$filter" -T fields "${fields[@]/#/-e}" \
        -E aggregator=' ' -E separator='|' 2>"$dir/tshark.out" | awk -F'|' -v device="$device" '
        BEGIN {
            if (device == "siw") { kind["0x02"] = "read"; kind["0x00"] = "write"; header["read"] = header["write"] = 14 }
            # RC, by their numbers; UDP, BTH and ICRC are 24 bytes, RETH 16 and AETH 4 where they are.
            split("13 14 15 16", reads, " "); for (i in reads) kind[reads[i]] = "read"
            split("6 7 8 10", writes, " "); for (i in writes) kind[writes[i]] = "write"
            more[6] = more[10] = 16; more[13] = more[15] = more[16] = 4
        }
        {
            count = split($1, opcodes, " "); split($2, lengths, " ")
            for (i = 1; i <= count; i++)
                if (opcodes[i] in kind) sum[kind[opcodes[i]]] += lengths[i] - (device == "siw" ? header[kind[opcodes[i]]] : 24 + more[opcodes[i]])
        }
        END { print sum["read"] + 0, sum["write"] + 0 }'
}
# The last capture must show that so many bytes went each way: by RDMA Read (it fetched them) and by RDMA Write.
expect_rdma_payload() {  # BYTES
    local fetched pushed
    read -r fetched pushed <<<"$(rdma_payload)"
    echo "the capture: $fetched bytes by RDMA Read, $pushed by RDMA Write"
    [ "$fetched" -ge "$1" ] && [ "$pushed" -ge "$1" ] || fail "the capture does not show the $1 bytes each way that went by channel"
}

# ---- what tests/smb/lib.sh calls at the end

rdma_state() {
    rdma link
    printf -- '---- resources\n'
    resources "${resource_types[@]}"
    printf -- '---- statistics\n'
    rdma statistic show
}
also_tell() {
    printf -- '---- the end of dmesg\n'
    dmesg | tail -n 15
    printf -- '---- RDMA objects that were not there at first\n'
    leaked_resources
}
also_at_end() {
    [ -z "$capture_pid" ] || capture_end >>"$LAB_OUT/log"
    peers_end
    rdma_state >"$LAB_OUT/rdma" 2>&1
    cp -r "$test_dir"/trace "$test_dir"/*.pcapng "$test_dir"/*.out "$LAB_OUT/" 2>/dev/null
    rmdir "$LAB_OUT/trace" 2>/dev/null  # if it is empty
    return 0
}
