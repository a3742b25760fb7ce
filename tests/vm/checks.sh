# shellcheck shell=sh
# What flowtap has to show on every kernel of the matrix, in each mode that loads there: doctor agrees, the application's
# sums are met to the byte, also under loss, nothing was dropped, and it stops when told to.
#
# The sums are those of the traffic program. Its client end is egress (by rport) and its server end is ingress (by
# lport), so one run has four of them, and each has its own series.
# shellcheck source=tests/vm/guest.sh
. /checks/guest.sh

metrics_url=http://127.0.0.1:9464/metrics
own_url=http://127.0.0.1:8888/metrics
ready_url=http://127.0.0.1:13133/readyz
prefix=primus_lens_network
traffic_runs=0

# Socket storage in tracing programs, and the 64-bit exchange, came with 5.12.
has_sockets_mode() {
    version=$(uname -r)
    major=${version%%.*} minor=${version#*.} minor=${minor%%.*}
    [ "$major" -gt 5 ] || { [ "$major" -eq 5 ] && [ "$minor" -ge 12 ]; }
}

# The mode that flowtap says it is in.
mode_now() { fetch $own_url | sed -n 's/^flowtap_receiver_mode{.*mode="\([a-z_]*\)".*/\1/p'; }

# metric_sum NAME [LABEL=VALUE]...: the sum of all series of that name with those labels; empty when there is none.
metric_sum() {
    fetch $metrics_url | awk -v want="$*" '
        BEGIN { count = split(want, part, " ")
            for (i = 2; i <= count; i++) { sub(/=/, "=\"", part[i]); part[i] = part[i] "\"" } }
        /^#/ { next }
        { name = $0; sub(/[{ ].*/, "", name); labels = $0; sub(/^[^{ ]*/, "", labels); value = labels
          if (sub(/^.*} */, "", value)) sub(/} *[^}]*$/, "", labels); else labels = ""
          labels = "," substr(labels, 2) ","; split(value, word, " ")
          if (name != part[1] && name != part[1] "_total") next
          for (i = 2; i <= count; i++) if (index(labels, "," part[i] ",") == 0) next
          found = 1; sum += word[1] }
        END { if (found) printf "%.0f\n", sum }'
}

# Four sums in the order of traffic_quad: what flowtap says of a port.
metric_quad() { # PORT
    for place in egress:rport ingress:lport; do
        for direction in outbound inbound; do
            metric_sum ${prefix}_tcp_flow_${place%:*} "${place#*:}=$1" direction=$direction | grep . || echo none
        done
    done | tr '\n' ' '
}

traffic_quad() { # LINE
    for key in client_sent client_received server_sent server_received; do
        field $key "$1"
    done | tr '\n' ' '
}

# Only what was received is known before the close in events mode: second and fourth of the four.
only_received() { cut -d' ' -f2,4; }
all_four() { cat; }

quad_is() { # PORT FILTER EXPECTED
    actual=$(metric_quad "$1" | $2)
    [ "$actual" = "$3" ]
}

# From 6.1 on an interrupt within a segment's program brings segments that no program is run for. They are told with the
# connection's next segment or its close, so of those that are open and quiet some bytes can be missing (ADR 12).
some_passed_over() { # EXPECTED ACTUAL
    case $(uname -r) in 5.10.*) return 1 ;; esac
    printf '%s\n%s\n' "$1" "$2" | awk '
        NR == 1 { count = split($0, sent) }
        NR == 2 { wrong = split($0, told) != count
                  for (i = 1; i <= count; i++) if (told[i] + 0 > sent[i] || told[i] + 0 < 0.9 * sent[i]) wrong = 1 }
        END { exit NR != 2 || wrong }'
}

# expect_quad NAME PORT LINE FILTER [ALLOWED]: waits, for a few windows at most, until the sums are the application's;
# or what ALLOWED lets pass.
expect_quad() {
    expected=$(traffic_quad "$3" | $4)
    if until_true 15 quad_is "$2" "$4" "$expected"; then
        pass "$1" "$actual"
    elif [ $# -gt 4 ] && $5 "$expected" "$actual"; then
        pass "$1" "application $expected, flowtap $actual until they close"
    else
        fail "$1" "application $expected, flowtap $actual"
        fetch $metrics_url | grep -E "^${prefix}_tcp_(flow_(in|e)gress|connections)" | head -n 40 |
            sed 's/^/VM-INFO name=exposed value=/'
    fi
}

write_config() { # MODE
    receiver=ebpf settings="{mode: $1, interval: 1s}"
    [ "$1" != sock_diag ] || receiver=sock_diag settings="{interval: 1s}"
    cat >/tmp/flowtap.yaml <<YAML
receivers:
  $receiver: $settings
processors:
  direction: {}
  policy: {}
  window:
    interval: 1s
    # By port, so that those of connections that ask for the metrics can be told apart.
    families: {network_tcp_retransmits: {labels: [raddr, type, rport, lport]}}
exporters:
  prometheus: {endpoint: "127.0.0.1:9464"}
service:
  admin: {endpoint: "127.0.0.1:13133"}
  pipelines:
    flows:
      receivers: [$receiver]
      processors: [direction, policy, window]
      exporters: [prometheus]
YAML
}

ready_or_dead() { fetch $ready_url >/dev/null 2>&1 || not_running; }

# Leaves no flowtap behind when it fails.
start_flowtap() { # MODE
    write_config "$1"
    flowtap run --config /tmp/flowtap.yaml >/tmp/flowtap.log 2>&1 &
    flowtap=$!
    until_true 30 ready_or_dead && ! not_running && return 0
    kill -KILL "$flowtap" 2>/dev/null
    wait "$flowtap"
    return 1
}

# A zombie still answers to kill -0.
not_running() { ! grep -qE '^State:.[^Z]' "/proc/$flowtap/status" 2>/dev/null; }

stop_flowtap() { # MODE
    kill -TERM "$flowtap"
    if until_true 30 not_running; then
        wait "$flowtap"
        same "$1_stops" 0 $?
    else
        kill -KILL "$flowtap"
        wait "$flowtap"
        fail "$1_stops" "still there 30 s after SIGTERM"
    fi
}

# Runs traffic to its end; its last line is in $line.
run_traffic() { # NAME ARGUMENTS...
    check=$1
    shift
    traffic_runs=$((traffic_runs + 1))
    line=$(traffic "$@" 2>&1 | tee "/tmp/traffic.$traffic_runs")
    case $line in *state=done*) return 0 ;; esac
    fail "$check" "traffic: $line"
    return 1
}

closed_bytes() { # MODE FAMILY PORT [--v6]
    name=$1_bytes_$2 port=$3
    shift 3
    run_traffic "$name" --connections 300 --port "$port" "$@" && expect_quad "$name" "$port" "$line" all_four
}

# The sums of connections that stay open, then of the same ones closed: no byte may be missed nor counted twice.
held_bytes() { # MODE PORT FILTER
    traffic_runs=$((traffic_runs + 1))
    output=/tmp/traffic.$traffic_runs
    traffic --hold --connections 100 --port "$2" >$output 2>&1 &
    holder=$!
    if until_true 60 grep -q state=holding $output; then
        case $1 in events) set -- "$@" some_passed_over ;; esac
        expect_quad "$1_bytes_open" "$2" "$(grep state=holding $output)" "$3" ${4:+"$4"}
    else
        fail "$1_bytes_open" "traffic: $(cat $output)"
    fi
    kill -TERM $holder
    wait $holder
    # Sockets that sock_diag has not seen since their last bytes are gone; these sent nothing after it looked.
    expect_quad "$1_bytes_open_then_closed" "$2" "$(tail -n 1 $output)" "$3"
}

port_quiet() { [ -z "$(ss -tnH "( sport = :$1 or dport = :$1 )")" ]; }

# Retransmits of both ends of the connections to a port.
retransmits() { # PORT
    by_clients=$(metric_sum ${prefix}_tcp_retransmits rport="$1") by_servers=$(metric_sum ${prefix}_tcp_retransmits lport="$1")
    echo $((${by_clients:-0} + ${by_servers:-0}))
}

# Bytes and retransmits with every fiftieth segment lost on its way.
loss() { # MODE PORT
    kernel=$(snmp RetransSegs snmp)
    if ! message=$(tc qdisc add dev lo root netem loss 2% 2>&1); then
        fail "$1_loss" "netem: $message"
        return
    fi
    run_traffic "$1_bytes_loss" --connections 100 --port "$2" && until_true 30 port_quiet "$2"
    quiet=$?
    # Gone before flowtap is asked: its own connections are not to lose anything.
    tc qdisc del dev lo root
    [ $quiet -eq 0 ] || return
    # From before the first of these connections until after the last, so it holds all that any of them sent again.
    kernel=$(($(snmp RetransSegs snmp) - kernel))
    own=$(($(field client_retransmits "$line") + $(field server_retransmits "$line")))
    expect_quad "$1_bytes_loss" "$2" "$line" all_four
    counted=$(retransmits "$2")
    # The kernel counts every segment; the application no longer sees what is sent again after it has closed.
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
    run_traffic "$1_bytes_interrupts" --connections 1000 --parallel 32 --port "$2" --max-bytes 4000 && until_true 30 port_quiet "$2"
    quiet=$?
    tc qdisc del dev lo root
    [ $quiet -eq 0 ] || return
    expect_quad "$1_bytes_interrupts" "$2" "$line" all_four
}

# What the receiver refused and the channel dropped: every counter is there from the start, and has to be 0.
nothing_lost() { # MODE
    refused=$(fetch $own_url | grep '^flowtap_receiver_refused_')
    dropped=$(fetch $metrics_url | grep '^primus_lens_bpf_event_chan_drop')
    at_least "$1_loss_counters" 8 "$(printf '%s\n' "$refused" | grep -c .)"
    same "$1_nothing_lost" '' "$(printf '%s\n%s\n' "$refused" "$dropped" | grep -v '^$' | grep -vE ' 0(\.0)?$')"
}

# Each mode has ports of its own: a connection between two ends that another has just left may be reset.
mode_checks() { # MODE CHOSEN FIRST_PORT
    closed_bytes "$1" ipv4 "$3"
    closed_bytes "$1" ipv6 $(($3 + 1)) --v6
    case $2 in events) filter=only_received ;; *) filter=all_four ;; esac
    held_bytes "$1" $(($3 + 2)) $filter
    loss "$1" $(($3 + 3))
    interrupts "$1" $(($3 + 4))
    nothing_lost "$1"
}

doctor() {
    flowtap doctor >/tmp/doctor 2>&1
    status=$?
    sed 's/^/VM-INFO name=doctor value=/' /tmp/doctor
    same doctor_says_run_works 0 $status
}

# A machine with little memory remembers few connections that have closed; what comes late of those beyond is answered with a
# reset.
echo 65536 >/proc/sys/net/ipv4/tcp_max_tw_buckets

# What auto has to pick.
chosen=events
if has_sockets_mode; then chosen=sockets; fi

doctor

# Debian's kernels have a level of paranoia at which only CAP_SYS_ADMIN has kprobes, and flowtap does not keep that.
paranoia=/proc/sys/kernel/perf_event_paranoid
if [ "$(cat $paranoia)" -gt 2 ] && start_flowtap events; then
    same events_without_kprobes false "$(sed -n 's/.*kprobes=//p' /tmp/flowtap.log)"
    same events_says_why 1 "$(grep -c 'no kprobes.*perf_event_paranoid=' /tmp/flowtap.log)"
    stop_flowtap events_without_kprobes
fi
echo 2 >$paranoia

first_port=7900
for mode in auto sockets events sock_diag; do
    first_port=$((first_port + 100))
    if ! start_flowtap $mode; then
        if [ $mode = sockets ] && [ $chosen != sockets ]; then
            pass sockets_refused "$(tail -n 1 /tmp/flowtap.log)"
        else
            fail ${mode}_starts "$(tail -n 5 /tmp/flowtap.log)"
        fi
        continue
    fi
    case $mode in
    auto)
        same auto_picks $chosen "$(mode_now)"
        mode_checks auto $chosen $first_port
        ;;
    # Shorter connections than an interval are out of its sight by design.
    sock_diag) held_bytes sock_diag $first_port all_four ;;
    *) mode_checks $mode $mode $first_port ;;
    esac
    # Every kernel of the matrix has kprobes, which CAP_PERFMON is enough for up to this level of paranoia.
    [ $mode != events ] || same events_kprobes true "$(sed -n 's/.*kprobes=//p' /tmp/flowtap.log)"
    stop_flowtap $mode
    grep -iE 'panic|error' /tmp/flowtap.log | head -n 5 | sed "s/^/VM-INFO name=${mode}_log value=/"
done
