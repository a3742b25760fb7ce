# shellcheck shell=sh
# Proves the machinery itself, with no flowtap in the image: the traffic program's sums are true, netem loses packets,
# programs come and go under traffic. Run it with `tests/vm/run --script tests/vm/selftest.sh`.
# shellcheck source=tests/vm/guest.sh
. /checks/guest.sh

# ss_sum FIELD PORT: what the kernel says of one field of the open sockets of a port, both ends together.
ss_sum() {
    ss -tinH state established "( sport = :$2 or dport = :$2 )" | tr ' ' '\n' |
        awk -F: -v key="$1" '$1 == key { sum += $2 } END { printf "%.0f\n", sum }'
}

traffic_sums() { # NAME ARGUMENTS...
    check=$1
    shift
    if line=$(traffic "$@" 2>&1); then pass "$check" "$line"; else fail "$check" "$line"; fi
}

# The sums of the application against the totals that the kernel keeps, all connections open.
held_sums() {
    traffic --hold --connections 100 --port 7993 >/tmp/held 2>&1 &
    pid=$!
    until_true 60 grep -q state=holding /tmp/held || fail held_traffic "$(cat /tmp/held)"
    line=$(grep state=holding /tmp/held)
    sum=$(($(field client_received "$line") + $(field server_received "$line")))
    same held_bytes_match_ss "$sum" "$(ss_sum bytes_received 7993)"
    kill -TERM $pid
    if wait $pid; then pass held_traffic_ends "$(tail -n 1 /tmp/held)"; else fail held_traffic_ends "$(cat /tmp/held)"; fi
}

netem_loss() {
    if ! message=$(tc qdisc add dev lo root netem loss 2% 2>&1); then
        fail netem "$message"
        return
    fi
    before=$(snmp RetransSegs snmp)
    traffic_sums loss_bytes_arrive --connections 100 --port 7994
    after=$(snmp RetransSegs snmp)
    tc qdisc del dev lo root
    at_least loss_retransmits 1 $((after - before))
    own=$(($(field client_retransmits "$line") + $(field server_retransmits "$line")))
    at_least loss_seen_by_traffic 1 "$own"
    # The kernel also counts what sockets retransmit after their owner has closed them.
    at_least loss_own_count_within_kernel_count "$own" $((after - before))
}

# Tracepoints and a kprobe come and go for five seconds under traffic: what crashes an emulator that is not sound. A
# crash shows as a machine that does not report, or as an oops in its log.
attach_under_traffic() {
    events=/sys/kernel/tracing/events
    while :; do traffic --connections 100 --port 7995 >/dev/null 2>&1; done &
    pid=$!
    rounds=0 ends=$(($(cut -d. -f1 /proc/uptime) + 5))
    while [ "$(cut -d. -f1 /proc/uptime)" -lt $ends ]; do
        for event in tcp/tcp_probe sock/inet_sock_set_state sched/sched_switch; do
            echo 1 >$events/$event/enable
            echo 0 >$events/$event/enable
        done
        echo 'p:vm/probe tcp_connect' >>${events%/*}/kprobe_events
        echo 1 >$events/vm/probe/enable
        echo 0 >$events/vm/probe/enable
        echo '-:vm/probe' >>${events%/*}/kprobe_events
        rounds=$((rounds + 1))
    done
    kill $pid
    at_least attach_under_traffic 2 $rounds
}

same btf yes "$(test -s /sys/kernel/btf/vmlinux && echo yes)"
traffic_sums bytes_ipv4 --connections 300 --port 7990
traffic_sums bytes_ipv6 --connections 300 --port 7991 --v6
held_sums
netem_loss
attach_under_traffic
