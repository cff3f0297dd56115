# shellcheck shell=bash
# For the tests in the lab with two engines side by side, as on two hosts: one of the server and one of the client, which
# meet on the wire alone. Source it after lib.sh.

# What the client's programs use from now on. Without the other two functions engines start by themselves, as ever.
two_engines() {
    client_socket=$SMBDIRECT_SOCKET-client
    client_prefix=(env "SMBDIRECT_SOCKET=$client_socket")
}
at_client() { SMBDIRECT_SOCKET=$client_socket "$@"; }  # a function of tests/smb/lib.sh or tools/lib.sh

# Engines with settings of their own; one that runs is ended before. Their pids are server_engine and client_engine.
start_server_engine() { server_engine=$(start_engine "$SMBDIRECT_SOCKET" "$@"); others+=("$server_engine"); }  # [NAME=VALUE...]
start_client_engine() { client_engine=$(start_engine "$client_socket" "$@"); others+=("$client_engine"); }     # [NAME=VALUE...]
start_engine() {  # SOCKET [NAME=VALUE...]
    local -x SMBDIRECT_SOCKET=$1
    shift
    stop_engine
    wait_until 10 no_engine || fail "an engine does not leave"
    env SMBDIRECT_IDLE_EXIT=0 "$@" "$engine" --foreground >>"$dir/engine.out" 2>&1 &
    echo $!
    wait_until 10 engine_answers || fail "an engine with $* does not come up"
}
engine_answers() { "$engine" --counters >/dev/null 2>&1; }

# smbd again, with its listener on another fabric.
serve_over() {  # verbs|iwarp [LINE...]
    server_fabric=$1
    shift
    if [ -n "${smbd_pid:-}" ]; then
        stop_smbd "$dir" "$smbd_pid"
        wait_until 10 nobody_serves || fail "port $(rdma_port_of "$port") is still listened for without a server"
    fi
    serve "$@"
}
nobody_serves() { ! cm_listens "$(rdma_port_of "$port")" && ! port_listens "$(rdma_port_of "$port")"; }

# The other fabric than this one.
opposite() { case $1 in iwarp) echo verbs ;; verbs) echo iwarp ;; esac; }

# Remembers, and then expects that since then connections went by these fabrics and by no others.
mark_connections() { marked_connections="$(connections) $(at_client connections)"; }
connections() { echo "$(engine_counter connections_iwarp) $(engine_counter connections_verbs)"; }
expect_connections() {  # LEAST FABRIC-OF-THE-CLIENT
    local before now
    read -ra before <<<"$marked_connections"
    read -ra now <<<"$(connections) $(at_client connections)"
    local server_iwarp=$((now[0] - before[0])) server_verbs=$((now[1] - before[1]))
    local client_iwarp=$((now[2] - before[2])) client_verbs=$((now[3] - before[3]))
    echo "connections: server iwarp $server_iwarp, verbs $server_verbs; client iwarp $client_iwarp, verbs $client_verbs"
    case $2 in
        iwarp) [ $client_iwarp -ge "$1" ] && [ $server_verbs -ge "$1" ] && [ $((client_verbs + server_iwarp)) = 0 ] ;;
        verbs) [ $client_verbs -ge "$1" ] && [ $server_iwarp -ge "$1" ] && [ $((client_iwarp + server_verbs)) = 0 ] ;;
    esac || fail "not $1 connections with $2 at the client and $(opposite "$2") at the server"
}
# Clients at the same time, each with a file there and back.
clients_at_once() {  # COUNT BYTES
    local i pid pids=()
    for i in $(seq "$1"); do
        random_file "$dir/out$i" "$2"
        client "put $dir/out$i f$i; get f$i $dir/in$i" >"$dir/said$i" 2>&1 &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || { cat "$dir"/said? >&2; fail "one of $1 clients failed"; }; done
    for i in $(seq "$1"); do same "$dir/out$i" "$dir/in$i"; rm -f "$dir/out$i" "$dir/in$i" "$dir/share/f$i"; done
}
