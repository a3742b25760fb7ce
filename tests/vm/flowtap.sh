# shellcheck shell=sh
# Words for scripts that run flowtap in the emulated machine and compare its metrics with the application's own count.
# Source it after guest.sh.
#
# One flowtap may run several receivers at once, each with a separate pipeline and endpoint, so that the same
# traffic is compared with each of them.

own_url=http://127.0.0.1:9460/metrics
ready_url=http://127.0.0.1:13134/readyz
prefix=primus_lens_network

# Socket storage in tracing programs, and the 64-bit exchange, came with 5.12.
has_sockets_mode() { linux_at_least 5 12; }

# Programs at functions came to arm64 with 6.4.
has_fentry() { [ "$(uname -m)" != aarch64 ] || linux_at_least 6 4; }

# metrics_url MODE
metrics_url() {
    case $1 in
    events) echo http://127.0.0.1:9465/metrics ;;
    sock_diag) echo http://127.0.0.1:9466/metrics ;;
    *) echo http://127.0.0.1:9464/metrics ;;
    esac
}

# With $more_keys of the receiver ebpf, and $more_families of the window, where these are set.
receiver_config() { # MODE
    case $1 in
    sock_diag) echo "  sock_diag/$1: {interval: 1s}" ;;
    *) echo "  ebpf/$1: {mode: $1, interval: 1s${more_keys:-}}" ;;
    esac
}

write_config() { # MODE...
    echo 'receivers:'
    for config_mode in "$@"; do receiver_config "$config_mode"; done
    cat <<YAML
processors:
  direction: {}
  policy: {}
  window:
    interval: 1s
    families:
      # By port, so that those of connections that ask for the metrics can be distinguished.
      network_tcp_retransmits: {labels: [raddr, type, rport, lport]}
      # By address for the same reason: the client's port would make a series of each connection.
      network_tcp_connections: {labels: [flow, event, type, raddr]}
${more_families:-}
exporters:
YAML
    for config_mode in "$@"; do
        endpoint=$(metrics_url "$config_mode") endpoint=${endpoint#http://} endpoint=${endpoint%/metrics}
        echo "  prometheus/$config_mode: {endpoint: \"$endpoint\"}"
    done
    # Detaching a program waits for the kernel, which takes its time in an emulated machine.
    printf 'service:\n  shutdown_timeout: 60s\n  admin: {endpoint: "127.0.0.1:13134"}\n  pipelines:\n'
    for config_mode in "$@"; do
        receiver=$(receiver_config "$config_mode" | cut -d: -f1 | tr -d ' ')
        echo "    metrics/$config_mode: {receivers: [$receiver], processors: [direction, policy, window], exporters: [prometheus/$config_mode]}"
    done
}

# A zombie still answers to kill -0.
not_running() { ! grep -qE '^State:.[^Z]' "/proc/$flowtap/status" 2>/dev/null; }

ready_or_dead() { fetch $ready_url >/dev/null 2>&1 || not_running; }

start_flowtap() { # MODE...
    write_config "$@" >/tmp/flowtap.yaml
    started_as_configured
}

# With the config in /tmp/flowtap.yaml. Leaves no flowtap running when it fails.
started_as_configured() {
    flowtap run --config /tmp/flowtap.yaml >/tmp/flowtap.log 2>&1 &
    flowtap=$!
    until_true 240 ready_or_dead && ! not_running && return 0
    kill -KILL "$flowtap" 2>/dev/null
    wait "$flowtap"
    return 1
}

# The kernel refuses a program for which its verifier would have to process more than a million instructions.
instructions_allowed=850000

# within_budget NAME: whether the verifier processed no more than that for any program that is loaded. Kernels before 5.16 do not
# report it; tests/vm/verifier has those.
within_budget() {
    verified=$(misses --verified | sort -n -k 2 | tail -n 1)
    [ "${verified##* }" -gt 0 ] 2>/dev/null || return 0
    if [ "${verified##* }" -le $instructions_allowed ]; then
        pass "$1_verifier" "$verified instructions at most"
    else
        fail "$1_verifier" "${verified% *} needs ${verified##* } of the 1000000 instructions that the verifier processes; $instructions_allowed are allowed"
    fi
}

stop_flowtap() { # NAME
    kill -TERM "$flowtap"
    if until_true 90 not_running; then
        wait "$flowtap"
        same "$1_stops" 0 $?
    else
        kill -KILL "$flowtap"
        wait "$flowtap"
        fail "$1_stops" "still running 30 s after SIGTERM"
    fi
    grep -iE 'panic|error' /tmp/flowtap.log | head -n 5 | sed "s/^/VM-INFO name=$1_log value=/"
}

# metric_sum URL NAME [LABEL=VALUE]...: the sum of all series of that name with those labels; empty when there is none.
metric_sum() {
    metric_url=$1
    shift
    fetch "$metric_url" | awk -v want="$*" '
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

# The mode that flowtap reports.
mode_now() { fetch "$own_url" | sed -n 's/^flowtap_receiver_mode{.*mode="\([a-z_]*\)".*/\1/p'; }

# Every port has addresses of its own at both ends, as connections are counted by address.
client_address() { if [ "$2" = ipv6 ]; then echo "fd00:1::$1"; else echo "127.1.$(($1 / 256)).$(($1 % 256))"; fi; }
server_address() { if [ "$2" = ipv6 ]; then echo "fd00:2::$1"; else echo "127.2.$(($1 / 256)).$(($1 % 256))"; fi; }

# ends PORT/FAMILY: what traffic and resets take for the two ends; gives the machine the addresses.
ends() {
    set -- "${1%/*}" "${1#*/}"
    if [ "$2" = ipv6 ]; then
        for end_address in "$(client_address "$@")" "$(server_address "$@")"; do
            ip -6 addr add "$end_address/128" dev lo nodad 2>/dev/null
        done
        # The kernel makes the routes a little later.
        until_true 10 ip -6 route get "$(server_address "$@")" from "$(client_address "$@")" >/dev/null 2>&1
    fi
    echo "--port $1 --client $(client_address "$@") --server $(server_address "$@")"
}

# Sums are lines `PORT/FAMILY` with eight numbers: bytes sent and received by the clients, by the servers; connections
# opened and closed by the clients, by the servers.

# application_sums PORT/FAMILY LINE: from a line of traffic or resets.
application_sums() {
    opened=$(field connections "$2") closed=$opened
    case $2 in *state=holding*) closed=0 ;; esac
    printf '%s' "$1"
    for key in client_sent client_received server_sent server_received; do printf ' %s' "$(field $key "$2")"; done
    printf ' %s %s %s %s\n' "$opened" "$closed" "$opened" "$closed"
}

# measured_sums MODE PORT/FAMILY...: from the metrics.
measured_sums() {
    sums_url=$(metrics_url "$1")
    shift
    {
        for sums_port in "$@"; do
            set -- "${sums_port%/*}" "${sums_port#*/}"
            echo "port $sums_port $1 $(client_address "$@") $(server_address "$@")"
        done
        fetch "$sums_url"
    } | awk -v prefix=$prefix '
        function label(name) {
            if (!match($0, "[{,]" name "=\"[^\"]*\"")) return ""
            return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4)
        }
        $1 == "port" { ids[++ports] = $2; of_port[$3] = $2; of_client[$4] = $2; of_server[$5] = $2; next }
        index($0, prefix "_tcp_flow_egress") == 1 { sum[of_port[label("rport")], label("direction") == "outbound" ? 1 : 2] += $NF }
        index($0, prefix "_tcp_flow_ingress") == 1 { sum[of_port[label("lport")], label("direction") == "outbound" ? 3 : 4] += $NF }
        # The peer of a client is the server.
        index($0, prefix "_tcp_connections{") == 1 && label("event") ~ /^(opened|closed)$/ {
            egress = label("flow") == "egress"
            id = egress ? of_server[label("raddr")] : of_client[label("raddr")]
            sum[id, (egress ? 5 : 7) + (label("event") == "closed")] += $NF
        }
        END {
            for (i = 1; i <= ports; i++) {
                printf "%s", ids[i]
                for (column = 1; column <= 8; column++) printf " %.0f", sum[ids[i], column]
                print ""
            }
        }'
}

# The columns that are compared: all, or of open connections in mode events those that are known before the close, or
# of sock_diag, which takes part in no connection's end, the bytes.
all_columns() { cat; }
known_while_open() { cut -d' ' -f1,3,5-; }
only_bytes() { cut -d' ' -f1-5; }

sums_are() { # MODE EXPECTED_FILE FILTER
    # shellcheck disable=SC2046 # a list of ports
    measured_sums "$1" $(cut -d' ' -f1 "$2") >/tmp/measured
    $3 </tmp/measured >/tmp/measured.compared
    $3 <"$2" | cmp -s - /tmp/measured.compared
}

# missing EXPECTED_FILE: `BYTES_SENT BYTES_RECEIVED OPENED CLOSED` that /tmp/measured lacks, over all ports and both ends;
# negative where it has too much.
missing() {
    awk 'NR == FNR { for (i = 2; i <= 9; i++) sum[i] += $i; next }
        { for (i = 2; i <= 9; i++) sum[i] -= $i }
        END { printf "%.0f %.0f %.0f %.0f\n", sum[2] + sum[4], sum[3] + sum[5], sum[6] + sum[8], sum[7] + sum[9] }' "$1" /tmp/measured
}

# lost MODE: the same, as flowtap counts what it lost: sent, received, and records of closed connections.
lost() {
    fetch "$own_url" | awk -v receiver="receiver=\"ebpf/$1\"" '
        !index($0, receiver) { next }
        /^flowtap_receiver_refused_bytes_total/ { bytes[/direction="outbound"/] += $NF }
        /^flowtap_receiver_refused_records_total/ && /reason="(ring_full|no_kernel_memory|close_missed|channel_full)"/ { records += $NF }
        END { printf "%.0f %.0f %.0f\n", bytes[1], bytes[0], records }'
}

# Mode events reports a segment before TCP has taken it in. A segment that fills a gap, and with it sets free segments that had
# come before, is counted with the connection's next one or its close; so of open connections received bytes can be missing.
not_yet_counted() { # EXPECTED_FILE
    awk 'NR == FNR { for (i = 2; i <= 9; i++) expected[$1, i] = $i; next }
        { for (i = 6; i <= 9; i++) if ($i != expected[$1, i]) wrong = 1
          for (i = 3; i <= 5; i += 2) if ($i > expected[$1, i] || $i < 0.9 * expected[$1, i]) wrong = 1 }
        END { exit wrong }' "$1" /tmp/measured
}

# The same happens where a program was skipped for a segment, which the kernel counts.
some_passed_over() { # EXPECTED_FILE
    [ "$(misses | sed -n 's/^\(segment\|on_tcp_probe\) //p')" -gt 0 ] 2>/dev/null && not_yet_counted "$1"
}

# expect_sums NAME MODE EXPECTED_FILE FILTER [ALLOWED]: waits, for a few windows at most, until the sums are the
# application's. Passes with a difference too if flowtap itself counts it as lost, to the last byte and connection, or
# if ALLOWED lets it pass.
expect_sums() {
    if until_true 30 sums_are "$2" "$3" "$4"; then
        pass "$1" "$(awk '{ for (i = 2; i <= 5; i++) sum += $i; ends += $6 + $8 } END { printf "%.0f bytes, %d ends", sum, ends }' "$3")"
        return
    fi
    # shellcheck disable=SC2046 # sent, received, opened, closed
    set -- "$1" "$2" "$3" "$4" "${5:-false}" $(missing "$3")
    detail="application less flowtap: $6 bytes sent, $7 received, $8 opened, $9 closed"
    if [ "$(lost "$2")" = "$6 $7 $9" ] && [ "$8" -eq 0 ]; then
        pass "$1" "$detail; counted as lost by flowtap"
    elif $5 "$3"; then
        pass "$1" "$detail until they close"
    else
        fail "$1" "$detail; flowtap counts as lost (sent, received, records): $(lost "$2"); misses: $(misses | tr '\n' ' ')"
        # The first ports that differ: the application's line, then flowtap's.
        $4 <"$3" | awk 'NR == FNR { expected[$1] = $0; next }
            $0 != expected[$1] && shown++ < 10 { print "VM-INFO name=differs value=application " expected[$1] ", flowtap " $0 }' - /tmp/measured.compared
    fi
}
