# shellcheck shell=sh
# Each mode by itself: open and closed connections, IPv4 and IPv6, lost segments, segments that come by interrupts.
# Source it after flowtap.sh.

# The kernel runs with the preemption model that it was booted with, where it was booted with one.
model_as_asked() {
    asked=$(sed -n 's/.*\bpreempt=\([a-z]*\).*/\1/p' /proc/cmdline)
    [ -z "$asked" ] || same preemption_model "$asked" "$(preemption_model)"
}

doctor() {
    flowtap doctor >/tmp/doctor 2>&1
    status=$?
    sed 's/^/VM-INFO name=doctor value=/' /tmp/doctor
    same doctor_says_run_works 0 $status
}

# Whether mode events runs with programs and a separate table, where the kernel refuses those of mode sockets.
has_separate_table() { grep -q 'mode events, in a separate table' /tmp/flowtap.log; }

# At the level of paranoia that Debian's kernels start with, mode events in a separate table has no kprobes, and says so.
without_kprobes() {
    [ "$(cat /proc/sys/kernel/perf_event_paranoid)" -gt 2 ] || return 0
    start_flowtap events || return 0
    if ! has_separate_table; then
        stop_flowtap events_without_kprobes
        return 0
    fi
    same events_without_kprobes false "$(sed -n 's/.*kprobes=\([a-z]*\).*/\1/p' /tmp/flowtap.log)"
    same events_says_why 1 "$(grep -c 'no kprobes.*perf_event_paranoid=' /tmp/flowtap.log)"
    stop_flowtap events_without_kprobes
}

# run_traffic NAME PORT/FAMILY ARGUMENTS...: runs traffic to its end; its last line is in $line, its sums in /tmp/expected.
run_traffic() {
    check=$1 port=$2
    shift 2
    # shellcheck disable=SC2046 # a list of arguments
    line=$(traffic $(ends "$port") "$@" 2>&1)
    application_sums "$port" "$line" >/tmp/expected
    case $line in *state=done*) return 0 ;; esac
    fail "$check" "traffic: $line"
    return 1
}

closed_bytes() { # MODE PORT/FAMILY
    run_traffic "$1_bytes_${2#*/}" "$2" --connections 300 && expect_sums "$1_bytes_${2#*/}" "$1" /tmp/expected all_columns
}

# The sums of connections that stay open, then of the same ones closed: no byte may be missed nor counted twice.
held_bytes() { # MODE PORT/FAMILY
    output=/tmp/held.${2%/*}
    # shellcheck disable=SC2046 # a list of arguments
    traffic --hold --connections 100 $(ends "$2") >"$output" 2>&1 &
    holder=$!
    if until_true 60 grep -qs state=holding "$output"; then
        application_sums "$2" "$(grep state=holding "$output")" >/tmp/expected
        case $1 in
        events) expect_sums "$1_bytes_open" "$1" /tmp/expected known_while_open some_passed_over ;;
        sock_diag) expect_sums "$1_bytes_open" "$1" /tmp/expected only_bytes ;;
        *) expect_sums "$1_bytes_open" "$1" /tmp/expected all_columns ;;
        esac
    else
        fail "$1_bytes_open" "traffic: $(cat "$output")"
    fi
    kill -TERM $holder
    wait $holder
    application_sums "$2" "$(tail -n 1 "$output")" >/tmp/expected
    # Sockets that sock_diag has not seen since their last bytes are gone; these sent nothing after it looked.
    case $1 in sock_diag) columns=only_bytes ;; *) columns=all_columns ;; esac
    expect_sums "$1_bytes_open_then_closed" "$1" /tmp/expected $columns
}

port_quiet() { [ -z "$(ss -tnH "( sport = :$1 or dport = :$1 )")" ]; }

# Retransmits of both ends of the connections to a port.
retransmits() { # MODE PORT
    by_clients=$(metric_sum "$(metrics_url "$1")" "${prefix}_tcp_retransmits" rport="$2")
    by_servers=$(metric_sum "$(metrics_url "$1")" "${prefix}_tcp_retransmits" lport="$2")
    echo $((${by_clients:-0} + ${by_servers:-0}))
}

# Bytes and retransmits with every fiftieth segment lost on its way.
loss() { # MODE PORT
    kernel=$(snmp RetransSegs snmp)
    if ! message=$(tc qdisc add dev lo root netem loss 2% 2>&1); then
        fail "$1_loss" "netem: $message"
        return
    fi
    run_traffic "$1_bytes_loss" "$2/ipv4" --connections 100 && until_true 30 port_quiet "$2"
    quiet=$?
    # Gone before flowtap is asked: its own connections are not to lose anything.
    tc qdisc del dev lo root
    [ $quiet -eq 0 ] || return
    # From before the first of these connections until after the last, so it holds all that any of them retransmitted.
    kernel=$(($(snmp RetransSegs snmp) - kernel))
    own=$(($(field client_retransmits "$line") + $(field server_retransmits "$line")))
    expect_sums "$1_bytes_loss" "$1" /tmp/expected all_columns
    counted=$(retransmits "$1" "$2")
    # The kernel counts every segment; the application no longer sees what is retransmitted after it has closed.
    if [ "$own" -gt 0 ] && [ "$counted" -ge "$own" ] && [ "$counted" -le "$kernel" ]; then
        pass "$1_retransmits" "application $own, flowtap $counted, kernel $kernel"
    else
        fail "$1_retransmits" "application $own, flowtap $counted, kernel $kernel"
    fi
}

# Segments that come by interrupts, in the middle of whatever the processor does, as those of a network card: the timer of
# netem's delay brings them. The kernel does not run a program where it interrupts the same one.
interrupts() { # MODE PORT
    if ! message=$(tc qdisc add dev lo root netem delay 300us limit 20000 2>&1); then
        fail "$1_interrupts" "netem: $message"
        return
    fi
    run_traffic "$1_bytes_interrupts" "$2/ipv4" --connections 1000 --parallel 32 --max-bytes 4000 && until_true 30 port_quiet "$2"
    quiet=$?
    tc qdisc del dev lo root
    [ $quiet -eq 0 ] || return
    expect_sums "$1_bytes_interrupts" "$1" /tmp/expected all_columns
}

# Records that the receiver refused and the channel dropped: every counter is there from the start, and has to be 0.
nothing_lost() { # MODE
    refused=$(fetch "$own_url" | grep '^flowtap_receiver_refused_')
    dropped=$(fetch "$(metrics_url "$1")" | grep '^primus_lens_bpf_event_chan_drop')
    at_least "$1_loss_counters" 8 "$(printf '%s\n' "$refused" | grep -c .)"
    same "$1_nothing_lost" '' "$(printf '%s\n%s\n' "$refused" "$dropped" | grep -v '^$' | grep -vE ' 0(\.0)?$')"
}

# Each mode has ports of its own: a connection between two ends that another has just left may be reset.
one_mode() { # MODE FIRST_PORT
    # The first that loads is what auto takes.
    taken=$1
    [ "$1" != auto ] || taken=${running%% *}
    if ! start_flowtap "$1"; then
        case " $running " in
        *" $taken "*) fail "$1_starts" "$(tail -n 5 /tmp/flowtap.log)" ;;
        *) pass "$1_refused" "$(tail -n 1 /tmp/flowtap.log)" ;;
        esac
        return
    fi
    within_budget "$1"
    case $1 in
    auto)
        # The mode that it takes is checked by itself.
        same auto_picks "$taken" "$(mode_now)"
        closed_bytes auto "$2/ipv4"
        ;;
    # Shorter connections than an interval are out of its sight by design.
    sock_diag) held_bytes sock_diag "$2/ipv4" ;;
    *)
        closed_bytes "$1" "$2/ipv4"
        closed_bytes "$1" "$(($2 + 1))/ipv6"
        held_bytes "$1" "$(($2 + 2))/ipv4"
        loss "$1" $(($2 + 3))
        interrupts "$1" $(($2 + 4))
        nothing_lost "$1"
        left_out "$1"
        ;;
    esac
    # Or a reload between the modes would begin anew.
    if [ "$1" = events ] && has_sockets_mode; then
        same events_shares_the_state '' "$(grep 'in a separate table' /tmp/flowtap.log)"
    fi
    # Every kernel of the matrix has kprobes.
    [ "$1" != events ] || ! has_separate_table || same events_kprobes true "$(sed -n 's/.*kprobes=\([a-z]*\).*/\1/p' /tmp/flowtap.log)"
    stop_flowtap "$1"
}
