# shellcheck shell=sh
# Ends of connections behind DNAT, a masquerade, NAT by tc and IPVS, against what the applications say of themselves. Source it
# after flowtap.sh.
#
#   client 10.77.11.2 --- node --- server 10.77.12.2
#
# nft: DNAT of 10.96.0.10:80, 10.96.0.11:80 (masqueraded) and [fd96::10]:80. tc: 10.96.0.12 to the server, the client to
# 10.77.12.9. IPVS: 10.96.0.13:80, masqueraded by nft as kube-proxy does.

# Series of a connection each.
translation_labels='labels: [raddr, rport, lport, direction, backend, backend_port]'
translation_families="      network_tcp_flow_egress: {$translation_labels}
      network_tcp_flow_ingress: {$translation_labels}"
translation_connections=20

make_translation() {
    for end in client node server; do ip netns add $end && ip -n $end link set lo up; done
    for end in client/11 server/12; do
        subnet=${end#*/} end=${end%/*}
        ip link add eth0 netns $end type veth peer name $end netns node
        ip -n node addr add 10.77.$subnet.1/24 dev $end
        ip -n node -6 addr add fd77:$subnet::1/64 dev $end nodad
        ip -n node link set $end up
        ip -n $end addr add 10.77.$subnet.2/24 dev eth0
        ip -n $end -6 addr add fd77:$subnet::2/64 dev eth0 nodad
        ip -n $end link set eth0 up
        ip -n $end route add default via 10.77.$subnet.1
        ip -n $end -6 route add default via fd77:$subnet::1
        # The headers of a packet in flight show the other end: nearly always there is one. Without it most scans find
        # none in emulation, and the messages of short pauses keep the processor busy.
        tc -n node qdisc add dev $end root netem delay 40ms
    done
    ip netns exec node sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
    ip netns exec node /usr/local/bin/nft -f - <<'NFT'
table inet kp {
    chain pre {
        type nat hook prerouting priority -100
        ip daddr 10.96.0.10 tcp dport 80 numgen random mod 2 0 dnat ip to 10.77.12.2:27060
        ip daddr 10.96.0.10 tcp dport 80 dnat ip to 10.77.12.2:27061
        ip daddr 10.96.0.11 tcp dport 80 dnat ip to 10.77.12.2:27060
        ip6 daddr fd96::10 tcp dport 80 dnat ip6 to [fd77:12::2]:27061
    }
    chain post {
        type nat hook postrouting priority 100
        ct original ip daddr 10.96.0.11 masquerade random
        ct original ip daddr 10.96.0.13 masquerade random
    }
}
NFT
}

# compare_ends MODE FAMILY ENDS: `RIGHT WRONG` of the connections in ENDS: those with a series of the real end, and series of them
# with another one. Of clients behind a masquerade there is no port.
compare_ends() {
    { cat "$3" && fetch "$(metrics_url "$1")"; } | awk -v family="${prefix}_$2" -v server="$([ "$2" = tcp_flow_ingress ] && echo 1)" '
        function label(name) {
            if (!match($0, "[{,]" name "=\"[^\"]*\"")) return ""
            return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4)
        }
        $1 == "end" { real[$2, $3, $4] = $5 " " (server ? "" : $6); next }
        index($0, family "{") == 1 || index($0, family "_total{") == 1 {
            id = label("lport") SUBSEP label("raddr") SUBSEP label("rport")
            if (!(id in real) || label("backend") == "") next
            if (label("backend") " " label("backend_port") == real[id]) right[id] = 1
            else wrong++
        }
        END { for (id in right) count++; printf "%d %d\n", count, wrong }'
}

ends_are_known() { # MODE FAMILY ENDS
    [ "$(compare_ends "$@")" = "$translation_connections 0" ]
}

# are_known NAME MODE FAMILY ENDS: a check that flowtap has the real end of each connection, and no other one.
are_known() {
    known_name=$1
    shift
    until_true 240 ends_are_known "$@" ||
        info "${known_name}_lost" "$(fetch "$own_url" | grep -E '^flowtap_receiver_(inspect_lost|program_misses)_total' | grep -v ' 0$' | tr '\n' ' ')"
    same "$known_name" "$translation_connections 0" "$(compare_ends "$@")"
}

all_printed() { [ "$(grep -c '^end ' "$1")" -ge "$translation_connections" ]; }

# start_server NAME: in the namespace `server`; it writes to /tmp/translation.served. Not by the function `ip`: then $! would be a
# shell, and its child would survive stop_server, with the ports that the next server needs.
start_server() {
    : >/tmp/translation.served
    /usr/local/bin/ip netns exec server /usr/local/bin/translation serve 27060 27061 >/tmp/translation.served 2>&1 &
    translated_server=$!
    until_true 30 grep -qs state=serving /tmp/translation.served || fail "$1_serves" "$(tail -n 3 /tmp/translation.served)"
}

stop_server() {
    kill "$translated_server"
    wait "$translated_server" 2>/dev/null
}

# all_served NAME: a check that the server has accepted every connection.
all_served() {
    until_true 120 all_printed /tmp/translation.served ||
        fail "$1_is_served" "$(grep -c '^end ' /tmp/translation.served) of $translation_connections: $(tail -n 3 /tmp/translation.served)"
}

# translated NAME ADDRESS PORT MASQUERADED BACKENDS MODE...: MASQUERADED is `yes` where the server sees the node in the client's
# place; BACKENDS is `known` or, where no look at the client's end can find them, `unknown`.
translated() {
    translated_name=$1 masqueraded=$4 backends=$5
    start_server "$translated_name"
    mkfifo /tmp/translation.end
    ip netns exec client /usr/local/bin/translation ask "$2" "$3" "$translation_connections" \
        </tmp/translation.end >/tmp/translation.asked 2>&1 &
    translated_client=$!
    exec 7>/tmp/translation.end
    shift 5
    until_true 120 all_printed /tmp/translation.asked || fail "${translated_name}_connects" "$(tail -n 3 /tmp/translation.asked)"
    all_served "$translated_name"
    for translated_mode in "$@"; do
        if [ "$backends" = known ]; then
            are_known "${translated_mode}_${translated_name}_backends" "$translated_mode" tcp_flow_egress /tmp/translation.asked
        fi
        if [ "$masqueraded" = yes ]; then
            are_known "${translated_mode}_${translated_name}_clients" "$translated_mode" tcp_flow_ingress /tmp/translation.served
        fi
        # By now each connection was looked at often enough for the other end to be known.
        if [ "$backends" = unknown ]; then
            same "${translated_mode}_${translated_name}_says_nothing" "0 0" \
                "$(compare_ends "$translated_mode" tcp_flow_egress /tmp/translation.asked)"
        fi
    done
    echo end >&7
    exec 7>&-
    wait $translated_client
    stop_server
    rm /tmp/translation.end
}

# nat_by_tc add|del: stateless NAT of both ends on the node, for every packet.
nat_by_tc() {
    if [ "$1" = del ]; then
        for dev in client server; do tc -n node qdisc del dev $dev clsact; done
        return
    fi
    for dev in client server; do tc -n node qdisc add dev $dev clsact || return 1; done
    tc -n node filter add dev client ingress protocol ip matchall action nat ingress 10.96.0.12/32 10.77.12.2 || return 1
    tc -n node filter add dev client egress protocol ip matchall action nat egress 10.77.12.2/32 10.96.0.12 || return 1
    # The server looks for this address on its own link.
    ip -n server route add 10.77.12.9/32 via 10.77.12.1 || return 1
    tc -n node filter add dev server egress protocol ip matchall action nat egress 10.77.11.2/32 10.77.12.9 || return 1
    tc -n node filter add dev server ingress protocol ip matchall action nat ingress 10.77.12.9/32 10.77.11.2
}

nat_by_ipvs() {
    modprobe ip_vs && modprobe ip_vs_rr || return 1
    ip -n node addr add 10.96.0.13/32 dev lo
    # Without it nothing behind IPVS is masqueraded.
    ip netns exec node sh -c 'echo 1 >/proc/sys/net/ipv4/vs/conntrack' || return 1
    ip netns exec node /usr/local/bin/translation ipvs 10.96.0.13 80 10.77.12.2 27060
}

# all_translations MODE...: for a flowtap that runs in these modes, after make_translation.
all_translations() {
    if nat_by_tc add >/tmp/nat_by_tc 2>&1; then
        translated tc 10.96.0.12 27060 yes known "$@"
        nat_by_tc del
    else
        fail nat_by_tc "$(tail -n 1 /tmp/nat_by_tc)"
    fi
    # It copies packets before it writes: the client's end has the headers from before.
    if nat_by_ipvs >/tmp/nat_by_ipvs 2>&1; then
        translated ipvs 10.96.0.13 80 yes unknown "$@"
    else
        fail nat_by_ipvs "$(tail -n 1 /tmp/nat_by_ipvs)"
    fi
    translated dnat 10.96.0.10 80 no known "$@"
    translated masquerade 10.96.0.11 80 yes known "$@"
    translated ipv6 fd96::10 80 no known "$@"
}

translation_inspect_keys=', inspect: {exchanges: true, budget: 100%}'

# short_translated NAME ADDRESS PORT MASQUERADED MODE...: connections of a message each way, most of which no scan finds.
short_translated() {
    short_name=$1 short_masqueraded=$4
    start_server "$short_name"
    ip netns exec client /usr/local/bin/translation short "$2" "$3" "$translation_connections" >/tmp/translation.asked 2>&1 ||
        fail "${short_name}_connects" "$(tail -n 3 /tmp/translation.asked)"
    shift 4
    all_served "$short_name"
    for short_mode in "$@"; do
        are_known "${short_mode}_${short_name}_backends" "$short_mode" tcp_flow_egress /tmp/translation.asked
        if [ "$short_masqueraded" = yes ]; then
            are_known "${short_mode}_${short_name}_clients" "$short_mode" tcp_flow_ingress /tmp/translation.served
        fi
    done
    stop_server
}

# all_short_translations MODE...: for a flowtap that runs in these modes with `inspect`, after make_translation.
all_short_translations() {
    translation_connections=60
    short_translated short_dnat 10.96.0.10 80 no "$@"
    short_translated short_masquerade 10.96.0.11 80 yes "$@"
    short_translated short_ipv6 fd96::10 80 no "$@"
}
