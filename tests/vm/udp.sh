# shellcheck shell=sh
# UDP: what the programs count per socket and peer equals the application's own count, in every way to send and receive,
# with the step that this kernel takes; and with a table that is full, the sum of flows and `other`.
#
# Run by `tests/vm/run --script tests/vm/udp.sh --with UDP --with UDP_FLOWS`: udp.c and ebpf/examples/udp_flows.rs, both static.
# shellcheck source=tests/vm/guest.sh
. /checks/guest.sh

# counted NAME ARGUMENT...: one run of the cases, with a check per case.
counted() {
    counted_name=$1
    shift
    timeout 300 /checks/udp-cases /checks/udp_flows "$@" >/tmp/udp.out 2>/tmp/udp.err
    counted_status=$?
    info "${counted_name}_step" "$(sed -n 's/^step //p' /tmp/udp.out)"
    sed -n 's/^# misses/misses/p' /tmp/udp.out | sort | uniq | while read -r line; do info "${counted_name}" "$line"; done
    while read -r word case verdict rest; do
        [ "$word" = case ] || continue
        case $verdict in
        ok) pass "${counted_name}_$case" "$rest" ;;
        skipped:) skip "${counted_name}_$case" "$rest" ;;
        *) fail "${counted_name}_$case" "$rest $verdict" ;;
        esac
    done </tmp/udp.out
    [ $counted_status -lt 2 ] || fail "${counted_name}_runs" "exit $counted_status: $(tail -n 8 /tmp/udp.err)"
    sed 's/^/VM-ERR /' /tmp/udp.err | head -n 20
}

info preemption "$(preemption_model)"
info version "$(cat /proc/sys/kernel/version)"
# runs_of: runs of the programs at UDP's functions, summed up.
runs_of() { misses --runs | awk '/^(sent4|sent6|taken|gone4|gone6)/ { sum += $2; programs++ } END { print programs + 0, sum + 0 }'; }

# untouched_tcp: no program of UDP runs for TCP. With a control: datagrams do run them.
untouched_tcp() {
    echo 1 >/proc/sys/kernel/bpf_stats_enabled
    # It ends with its input.
    mkfifo /tmp/hold
    /checks/udp_flows functions </tmp/hold >/tmp/untouched.out 2>&1 &
    untouched=$!
    exec 9>/tmp/hold
    if ! until_true 120 grep -qs '^step' /tmp/untouched.out; then
        fail tcp_untouched "$(cat /tmp/untouched.out)"
        kill $untouched
        return
    fi
    before=$(runs_of)
    traffic --connections 200 --port 7800 >/tmp/traffic.out 2>&1 || fail tcp_untouched_traffic "$(tail -n 2 /tmp/traffic.out)"
    same tcp_untouched "5 ${before#* }" "$(runs_of)"
    # Any datagram will do: the resolver of busybox asks a name server that is not there.
    timeout 5 nslookup -type=a example.invalid 127.0.0.1 >/tmp/lookup.out 2>&1
    after=$(runs_of)
    at_least tcp_untouched_control $((${before#* } + 1)) "${after#* }"
    exec 9>&-
    wait $untouched
    echo 0 >/proc/sys/kernel/bpf_stats_enabled
}

echo 2 >/proc/sys/kernel/perf_event_paranoid
# Datagrams of 30,000 bytes are to be fragments.
counted functions functions
ip link set lo mtu 1500
counted fragmented functions fragments gso_by_message4 gso_by_message6
ip link set lo mtu 65536
counted full functions full
untouched_tcp
counted cgroup cgroup
counted cgroup_full cgroup full
