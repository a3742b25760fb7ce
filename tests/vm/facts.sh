# shellcheck shell=sh
# Reports the features of this kernel that flowtap uses, as VM-INFO lines. Runs in every emulated machine before the script.
# shellcheck source=tests/vm/guest.sh
. /checks/guest.sh

release=$(uname -r)
config=/boot/config-$release
tracing=/sys/kernel/tracing

yes_if() { if "$@" >/dev/null 2>&1; then echo yes; else echo no; fi; }

# Registering one is the only proof: the directory is there on kernels where it is refused.
kprobe_works() {
    echo "p:vm/probe $1" >>$tracing/kprobe_events && echo '-:vm/probe' >>$tracing/kprobe_events
}

info release "$release"
info boot_seconds "$(cut -d' ' -f1 /proc/uptime)"
info preemption_model "$(preemption_model)"
info preemption_models "$(cat /sys/kernel/debug/sched/preempt 2>/dev/null || echo 'one, built in')"
info btf "$(yes_if test -s /sys/kernel/btf/vmlinux)"
info btf_bytes "$(wc -c </sys/kernel/btf/vmlinux 2>/dev/null)"
for name in tcp_connect tcp_close; do
    info "kprobe_$name" "$(yes_if kprobe_works $name)"
done
for name in tcp/tcp_probe sock/inet_sock_set_state tcp/tcp_retransmit_skb; do
    info "tracepoint_${name#*/}" "$(yes_if test -d $tracing/events/$name)"
done
info lsm "$(cat /sys/kernel/security/lsm 2>/dev/null)"
info lockdown "$(cat /sys/kernel/security/lockdown 2>/dev/null)"
for name in kernel/unprivileged_bpf_disabled net/core/bpf_jit_enable kernel/perf_event_paranoid net/ipv4/tcp_congestion_control; do
    info "sysctl_${name##*/}" "$(cat /proc/sys/$name 2>/dev/null)"
done
for name in BPF_SYSCALL BPF_JIT BPF_JIT_ALWAYS_ON BPF_UNPRIV_DEFAULT_OFF BPF_EVENTS BPF_LSM CGROUP_BPF DEBUG_INFO_BTF \
    DEBUG_INFO_BTF_MODULES KPROBES KPROBE_EVENTS FUNCTION_TRACER DYNAMIC_FTRACE_WITH_DIRECT_CALLS FPROBE \
    SECURITY_LOCKDOWN_LSM INET_DIAG INET_TCP_DIAG IPV6 NET_SCH_NETEM NET_SCH_TBF NF_TABLES VETH CGROUPS PREEMPT_DYNAMIC; do
    info "config_$name" "$(sed -n "s/^CONFIG_$name=//p" "$config" 2>/dev/null | grep . || echo absent)"
done
for name in sch_netem sch_tbf tcp_diag veth; do
    info "module_$name" "$(yes_if modprobe $name)"
done
