# shellcheck shell=bash
# Addresses that lead nowhere, in a network namespace of one's own. Sourced. 198.51.100.1: no route; .2: a route that says
# unreachable; .3: one that says prohibited; .4: nobody ever answers, since nothing that comes by loopback is forwarded.
# The same of 2001:db8:1::1 to 3. Fails where routes may not be made.
make_network() {
    ip link set lo up && ip route add unreachable 198.51.100.2 && ip route add prohibit 198.51.100.3 &&
        ip route add 198.51.100.4 dev lo && ip -6 address add 2001:db8:1::9/128 dev lo nodad &&
        ip -6 route add unreachable 2001:db8:1::2 && ip -6 route add prohibit 2001:db8:1::3 &&
        echo 1 >/proc/sys/net/ipv4/tcp_syn_retries  # a timeout of 3 s
} 2>/dev/null
