# shellcheck shell=sh
# UDP: what the programs count per socket and peer equals the application's own count, in every way to send and receive,
# with the step that this kernel takes and with each other that it has; and with a table that is full, the sum of flows and
# `other`. The step that is taken is the one that docs/kernels.md has for this kernel.
#
# Run by `tests/vm/run --script tests/vm/udp.sh --with UDP --with UDP_FLOWS`: udp.c and ebpf/examples/udp_flows.rs, both static.
# With --binary a flowtap names the same step in its log, metric and report.
# shellcheck source=tests/vm/guest.sh
. /checks/guest.sh
# shellcheck source=tests/vm/flowtap.sh
. /checks/flowtap.sh

# counted NAME STEP [--unprivileged] HOOKS [CASE...]: one run of the cases, with a check per case, and that STEP was taken.
counted() {
    counted_name=$1 counted_step=$2
    shift 2
    counted_option=''
    [ "$1" != --unprivileged ] || { counted_option=$1 && shift; }
    # shellcheck disable=SC2086
    timeout 300 /checks/udp-cases $counted_option /checks/udp_flows "$@" >/tmp/udp.out 2>/tmp/udp.err
    counted_status=$?
    same "${counted_name}_step" "$counted_step" "$(sed -n 's/^step //p' /tmp/udp.out)"
    grep -E '^# (refused|absent) ' /tmp/udp.out | while read -r _ line; do info "${counted_name}" "$line"; done
    while read -r word case verdict rest; do
        [ "$word" = case ] || continue
        case $verdict in
        ok) pass "${counted_name}_$case" "$rest" ;;
        skipped:) skip "${counted_name}_$case" "$rest" ;;
        *) fail "${counted_name}_$case" "$verdict $rest" ;;
        esac
    done </tmp/udp.out
    [ $counted_status -lt 2 ] || fail "${counted_name}_runs" "exit $counted_status: $(tail -n 8 /tmp/udp.err)"
    sed 's/^/VM-ERR /' /tmp/udp.err | head -n 20
}

# A thread that is preempted inside a trampoline's program makes its CPU pass over the program for others, so trampolines come
# last where threads are preempted. Debian's 6.1 has no kprobes through fprobe.
threads_are_preempted() {
    case $(preemption_model) in
    full | lazy) true ;;
    *) false ;;
    esac
}
has_fprobe() { linux_at_least 6 2; }

# expected_step: of those at functions.
expected_step() {
    if ! threads_are_preempted; then
        echo fentry
    elif has_fprobe; then
        echo kprobe_multi
    else
        echo kprobe
    fi
}

# link_to_peer: a namespace `peer` behind a link of Ethernet's size, for datagrams that do not fit it.
link_to_peer() {
    modprobe veth 2>/dev/null
    if ! { ip netns add peer && ip link add here mtu 1500 type veth peer name there mtu 1500 netns peer &&
        ip address add 10.77.0.1/24 dev here && ip address add fd77::1/64 dev here nodad && ip link set here up &&
        ip -n peer address add 10.77.0.2/24 dev there && ip -n peer address add fd77::2/64 dev there nodad &&
        ip -n peer link set there up && ip -n peer link set lo up; }; then
        fail link_to_peer "no link to a namespace"
    fi
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
link_to_peer
step=$(expected_step)
# absent_are NAME PROGRAMS: the programs of the last run that it had to do without.
absent_are() { same "$1_absent" "$2" "$(sed -n 's/^# absent //p' /tmp/udp.out | tr '\n' ' ')"; }
counted functions "$step" functions
if linux_at_least 5 13; then absent_are functions ''; else absent_are functions 'failed '; fi
# Datagrams of 30,000 bytes are to be fragments.
ip link set lo mtu 1500
counted fragmented "$step" functions fragments gso_by_message4 gso_by_message6
ip link set lo mtu 65536
counted full "$step" functions full
untouched_tcp
counted cgroup cgroup cgroup
# The tracepoint of full buffers has the datagram on later kernels, kfree_skb the socket since 6.11. Programs at tracepoints may
# ask for a socket's cookie since 5.12.
if linux_at_least 6 11; then
    absent_are cgroup ''
elif linux_at_least 5 13; then
    absent_are cgroup 'uncount_dropped uncount_filtered '
else
    absent_are cgroup 'uncount_dropped dropped uncount_filtered failed '
fi
counted cgroup_full cgroup cgroup full
# sock_send_length and sock_recv_length.
if linux_at_least 6 3; then
    counted tracepoints tracepoints tracepoints
fi

# The steps that this kernel has and does not take by itself.
others='connected4 connected6 unconnected6 gso_by_message4 gro refused no_room short_lived threads_and_reads quic uring_inline dns dns_in_pages dns_ring_full'
for other in fentry kprobe_multi kprobe; do
    [ $other != "$step" ] || continue
    [ $other != kprobe_multi ] || has_fprobe || continue
    # shellcheck disable=SC2086
    counted by_$other $other $other $others
done

# With two capabilities and no other privilege. Such a process can't read the list of preemption models, and takes threads to be
# preempted unless the kernel's command line says that they are not. From perf_event_paranoid 3 on Debian's kernels refuse kprobes.
unprivileged_step() { # PARANOID
    if has_fprobe; then
        echo kprobe_multi
    elif [ "$1" = 2 ] && linux_at_least 6 1; then
        echo kprobe
    else
        echo fentry
    fi
}
for paranoid in 2 3; do
    echo $paranoid >/proc/sys/kernel/perf_event_paranoid
    counted unprivileged_$paranoid "$(unprivileged_step $paranoid)" --unprivileged functions connected4 connected6 short_lived dns
done
echo 2 >/proc/sys/kernel/perf_event_paranoid

# A step whose programs are attached and never run fails its self-test, and the next one is taken. Kprobes that are disarmed for
# the whole kernel attach and do not run.
tried() { sed -n 's/^step //p; s/^refused \([a-z_]*\) .*/not \1/p' | sort | tr '\n' ' '; }
# steps_tried STEP: with those before it, where kprobes do not run.
steps_without_kprobes() {
    case $step in
    kprobe) echo 'fentry not kprobe not kprobe_multi ' ;;
    *) echo "$step " ;;
    esac
}
echo 0 >/sys/kernel/debug/kprobes/enabled
/checks/udp_flows kprobe </dev/null >/tmp/steps.out 2>&1 && fail self_test_of_kprobes "$(cat /tmp/steps.out)"
if grep -q 'was not seen' /tmp/steps.out; then
    pass self_test_of_kprobes "$(tail -n 1 /tmp/steps.out)"
else
    fail self_test_of_kprobes "$(cat /tmp/steps.out)"
fi
same steps_without_kprobes "$(steps_without_kprobes)" "$(/checks/udp_flows functions </dev/null 2>&1 | tried)"

# flowtap_names NAME STEP [REFUSED]: flowtap's log, metric and report name the same step, and its log those that failed.
flowtap_names() {
    start_flowtap auto || { fail "$1_starts" "$(tail -n 5 /tmp/flowtap.log)" && return; }
    same "$1_log" "$2" "$(grep 'measuring UDP' /tmp/flowtap.log | tr ' ' '\n' | sed -n 's/^step=//p' | tr -d '"')"
    same "$1_log_of_failures" "${3:-}" "$(grep 'a step for UDP does not work' /tmp/flowtap.log | tr ' ' '\n' | sed -n 's/^step=//p' | tr -d '"' | tr '\n' ' ')"
    same "$1_metric" "$2" "$(fetch $own_url | sed -n 's/^flowtap_receiver_udp_step{.*step="\([a-z_]*\)".* 1$/\1/p')"
    same "$1_doctor" "$2" "$(flowtap doctor --json | tr -d '\n' | sed -n 's/.*"need": *"UDP", *"verdict": *"ok", *"found": *"by \([a-z_]*\),.*/\1/p')"
    stop_flowtap "$1"
}
if command -v flowtap >/dev/null; then
    export FLOWTAP_LOG=debug
    # Kprobes still do not run.
    case $step in
    kprobe) flowtap_names flowtap_without_kprobes fentry 'kprobe_multi kprobe ' ;;
    esac
    echo 1 >/sys/kernel/debug/kprobes/enabled
    case $step in
    kprobe) flowtap_names flowtap "$step" 'kprobe_multi ' ;;
    *) flowtap_names flowtap "$step" ;;
    esac
fi
echo 1 >/sys/kernel/debug/kprobes/enabled
