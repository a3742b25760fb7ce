# shellcheck shell=sh
# Links on which this machine itself drops what its TCP sends (a full queue, a firewall, a policer): there a segment is
# counted as sent though it never left, and its transmission later does not count as a retransmission. Source it after flowtap.sh.
#
# Every link is made of the loopback interface, for the time of the traffic only: what asks for the metrics is not to
# lose anything. One run of traffic, IPv4 and IPv6 at once, is compared in every mode.

# Segments are still joined here, beyond the default `mtu` of a policer.
police() { # egress|ingress
    tc qdisc add dev lo clsact &&
        tc filter add dev lo "$1" matchall action police rate 50mbit burst 128k mtu 70000 conform-exceed drop
}

# make_link NAME: makes it. Slower than an emulated machine on a busy host can send, as the queues are to be full.
make_link() {
    case $1 in
    # A queue of two full-sized segments.
    short_queue) tc qdisc add dev lo root tbf rate 20mbit burst 70k limit 140k ;;
    # 25 ms is what CNI's bandwidth plugin sets.
    shaped) tc qdisc add dev lo root tbf rate 20mbit burst 70k latency 25ms ;;
    # No SYN: one that is lost costs a second.
    firewall)
        nft add table inet drops && nft add chain inet drops output '{ type filter hook output priority 0; }' &&
            nft add rule inet drops output 'tcp flags & syn == 0 numgen random mod 10 == 0 counter drop'
        ;;
    action) tc qdisc add dev lo clsact && tc filter add dev lo egress matchall action pass random determ drop 20 ;;
    policed_egress) police egress ;;
    # A control: what is dropped here did leave the sender.
    policed_ingress) police ingress ;;
    esac
}
links='short_queue shaped firewall action policed_egress policed_ingress'

# Ends the link that there is; the segments that it dropped are added to $drops.
remove_link() {
    dropped=$({
        tc -s qdisc show dev lo
        tc -s filter show dev lo egress
        tc -s filter show dev lo ingress
        nft list ruleset
    } 2>/dev/null | sed -nE 's/.*(dropped|counter packets) ([0-9]+).*/\2/p' | awk '{ sum += $1 } END { print sum + 0 }')
    drops=$((drops + dropped))
    tc qdisc del dev lo root 2>/dev/null
    tc qdisc del dev lo clsact 2>/dev/null
    nft flush ruleset 2>/dev/null
}

# held_over_link LINK FIRST_PORT: bytes while connections are open, and once they are closed, which is over the link too.
held_over_link() {
    name=$1 drops=0
    set -- "$2/ipv4" "$(($2 + 1))/ipv6"
    if ! message=$(make_link "$name" 2>&1); then
        fail "link_$name" "$message"
        remove_link
        return
    fi
    holders=''
    for port in "$@"; do
        # shellcheck disable=SC2046 # a list of arguments
        traffic --hold --connections 10 --max-bytes 400000 $(ends "$port") >"/tmp/held.${port%/*}" 2>&1 &
        holders="$holders $!"
    done
    holding=yes
    for port in "$@"; do until_true 90 grep -qs state=holding "/tmp/held.${port%/*}" || holding=no; done
    remove_link
    if [ $holding = yes ]; then
        for port in "$@"; do application_sums "$port" "$(grep state=holding "/tmp/held.${port%/*}")"; done >/tmp/expected
        for mode in $running; do
            case $mode in
            events)
                # Only there does a segment come after later ones of its connection.
                allowed=some_passed_over
                [ "$name" != policed_ingress ] || allowed=not_yet_counted
                expect_sums "link_${name}_events_open" events /tmp/expected known_while_open $allowed
                ;;
            sock_diag) expect_sums "link_${name}_sock_diag" sock_diag /tmp/expected only_bytes ;;
            *) expect_sums "link_${name}_${mode}_open" "$mode" /tmp/expected all_columns ;;
            esac
        done
        make_link "$name"
    fi
    # shellcheck disable=SC2086 # a list of processes
    kill -TERM $holders
    # shellcheck disable=SC2086
    wait $holders
    remove_link
    at_least "link_${name}_drops" 1 $drops
    for port in "$@"; do application_sums "$port" "$(tail -n 1 "/tmp/held.${port%/*}")"; done >/tmp/expected
    if [ $holding = no ] || [ "$(cat "/tmp/held.${1%/*}" "/tmp/held.${2%/*}" | grep -c state=done)" -ne 2 ]; then
        fail "link_${name}" "traffic: $(cat "/tmp/held.${1%/*}" "/tmp/held.${2%/*}")"
        return
    fi
    for mode in $running; do
        [ "$mode" = sock_diag ] || expect_sums "link_${name}_${mode}_closed" "$mode" /tmp/expected all_columns
    done
}

# all_links FIRST_PORT: for a flowtap that runs the modes of $running.
all_links() {
    next_port=$1
    mtu=$(cat /sys/class/net/lo/mtu)
    ip link set lo mtu 1500
    for one in $links; do
        held_over_link "$one" "$next_port"
        next_port=$((next_port + 2))
    done
    ip link set lo mtu "$mtu"
}
