# shellcheck shell=sh
# Dropped packets and queues of listening sockets, against the kernel's own counters. Source it after flowtap.sh.

# The tracepoint has had a reason since 5.17.
has_drop_reasons() { linux_at_least 5 17; }

# sum_of FAMILY [LABEL=VALUE]...: of the receiver that runs in mode auto; 0 if there is none.
sum_of() {
    sum_family=$1
    shift
    sum_found=$(metric_sum "$(metrics_url auto)" "${prefix}_$sum_family" "$@")
    echo "${sum_found:-0}"
}

# reaches EXPECTED FAMILY [LABEL=VALUE]...
reaches() {
    reaches_expected=$1
    shift
    [ "$(sum_of "$@")" -ge "$reaches_expected" ]
}

# counted NAME EXPECTED FAMILY [LABEL=VALUE]...: a check that a sum becomes as large, and no larger.
counted() {
    counted_name=$1 counted_expected=$2
    shift 2
    until_true 30 reaches "$counted_expected" "$@"
    same "$counted_name" "$counted_expected" "$(sum_of "$@")"
}

drops_by_reason() {
    nobody_before=$(sum_of drops reason=NO_SOCKET)
    ports_before=$(snmp NoPorts snmp)
    drops datagrams 7701 1000
    nobody=$(($(snmp NoPorts snmp) - ports_before))
    same drops_nobody_by_the_kernel 1000 $nobody
    counted drops_nobody $((nobody_before + nobody)) drops reason=NO_SOCKET kind=nobody

    nft 'table inet d { chain i { type filter hook input priority 0; udp dport 7702 counter drop; }; }'
    drops datagrams 7702 500
    by_nft=$(nft list table inet d | sed -n 's/.*counter packets \([0-9]*\).*/\1/p')
    nft delete table inet d
    same drops_policy_by_nft 500 "$by_nft"
    counted drops_policy "$by_nft" drops reason=NETFILTER_DROP kind=policy
}

queue_of_listener() {
    overflows_before=$(snmp ListenDrops netstat)
    mkfifo /tmp/listen.end
    drops listen 7703 3 20 </tmp/listen.end >/tmp/listen.out 2>&1 &
    holder=$!
    exec 7>/tmp/listen.end
    until_true 30 grep -qs state=holding /tmp/listen.out
    until_true 30 reaches 4 tcp_listen_backlog lport=7703
    same listen_backlog 4 "$(sum_of tcp_listen_backlog lport=7703)"
    same listen_limit 3 "$(sum_of tcp_listen_backlog_limit lport=7703)"
    until_true 30 reaches 2 tcp_accept_wait lport=7703
    at_least accept_wait_seconds 2 "$(sum_of tcp_accept_wait lport=7703)"
    echo end >&7
    exec 7>&-
    wait $holder
    counted listen_drops $(($(snmp ListenDrops netstat) - overflows_before)) tcp_listen_drops lport=7703
    rm /tmp/listen.end
}

# For a flowtap that runs in mode auto.
all_drops() {
    if has_drop_reasons; then
        drops_by_reason
    else
        same drops_say_what_is_missing 1 "$(grep -c 'dropped packets are not counted.*before Linux 5.17' /tmp/flowtap.log)"
        same drops_are_absent '' "$(metric_sum "$(metrics_url auto)" ${prefix}_drops)"
    fi
    if has_sockets_mode; then
        queue_of_listener
    else
        same queues_say_what_is_missing 1 "$(grep -c 'queues of listening sockets are not measured' /tmp/flowtap.log)"
    fi
}
