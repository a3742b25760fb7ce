# shellcheck shell=sh
# Limits of connections: in every mode at once, against TCP_INFO at the end that connected. Source it after flowtap.sh.
#
# A peer that never reads, a black hole, and a server that thinks: each on its port, for some seconds.

limits_seconds=8

# For the window of flowtap's config.
limits_families='
      network_tcp_send_time: {labels: [limit, flow, server_port]}
      network_tcp_rto_time: {labels: [flow, server_port]}
      network_tcp_connection_duration: {labels: [flow, server_port]}
      network_tcp_connecting: {labels: [server_port]}
      network_tcp_connecting_retransmits: {labels: [server_port]}'

# milliseconds MODE METRIC PORT [LABEL=VALUE]: of the end that connected.
milliseconds() {
    fetch "$(metrics_url "$1")" | awk -v name="${prefix}_$2" -v port="server_port=\"$3\"" -v more="${4:-}" '
        BEGIN { if (more != "") { sub(/=/, "=\"", more); more = more "\"" } }
        /^#/ || !index($0, port) || !index($0, "flow=\"egress\"") || (more != "" && !index($0, more)) { next }
        { found = $1; sub(/\{.*/, "", found) }
        found == name || found == name "_total" { sum += $NF }
        END { printf "%.0f\n", sum * 1000 }'
}

has_ended() { [ "$(milliseconds "$1" tcp_connection_duration_sum "$2")" -gt 0 ]; }

# near NAME OURS THEIRS LIFE: a check that two parts of a life differ by a twentieth of it at most.
near() {
    near_by=$(($2 - $3)) near_by=${near_by#-}
    if [ "$near_by" -le $(($4 / ${near_part:-20})) ]; then pass "$1" "$2 of $4 ms, TCP_INFO $3"
    else fail "$1" "$2 of $4 ms, TCP_INFO has $3"; fi
}

# compare_limits MODE NAME PORT LIMIT LINE
compare_limits() {
    name=limits_${1}_$2 life=$(field age_ms "$5")
    if ! until_true 60 has_ended "$1" "$3"; then
        fail "$name" "$1 has no end of the connection to port $3"
        return
    fi
    for limit in network answer receiver buffer application; do
        eval "of_$limit=\$(milliseconds $1 tcp_send_time $3 limit=$limit)"
    done
    # sock_diag learns of the beginning and the end at its looks, a second apart.
    near_part=20
    [ "$1" != sock_diag ] || near_part=5
    # shellcheck disable=SC2154 # set by eval
    {
        near "${name}_busy" $((of_network + of_answer)) "$(field busy_ms "$5")" "$life"
        near "${name}_receiver" "$of_receiver" "$(field receiver_ms "$5")" "$life"
        near "${name}_buffer" "$of_buffer" "$(field buffer_ms "$5")" "$life"
        total=$((of_network + of_answer + of_receiver + of_buffer + of_application))
        near "${name}_sum" "$total" "$life" "$life"
        eval "most=\$of_$4"
        # The kernel takes what is lost behind a window that the peer never opens further for the receiver's: see TCP_INFO above.
        [ "$2" != black_hole ] || most=$((of_network + of_receiver))
        at_least "${name}_$4" $(((total - of_application) * 9 / 10)) "$most"
    }
    if [ "$(field rto_ms "$5")" -gt 0 ]; then
        near "${name}_rto" "$(milliseconds "$1" tcp_rto_time "$3")" "$(field rto_ms "$5")" "$life"
    elif [ "$2" = black_hole ]; then
        skip "${name}_rto" "Linux $(uname -r) does not count it; from 6.7 on"
    fi
}

# all_limits FIRST_PORT: for a flowtap that runs the modes of $running.
all_limits() {
    nft add table inet hole && nft add chain inet hole in '{ type filter hook input priority 0; }' &&
        nft add rule inet hole in tcp dport $(($1 + 1)) meta length gt 100 drop ||
        fail limits_hole "nft refused it"
    limits --port "$1" --seconds $limits_seconds --server never --client writes >/tmp/limits.never 2>&1 &
    never=$!
    limits --port $(($1 + 1)) --seconds $limits_seconds --server reads --client writes >/tmp/limits.hole 2>&1 &
    hole=$!
    limits --port $(($1 + 2)) --seconds $limits_seconds --server answers --client asks >/tmp/limits.answers 2>&1 &
    wait $never $hole $!
    nft flush ruleset
    if [ "$(cat /tmp/limits.* | grep -c state=done)" -ne 3 ]; then
        fail limits "limits: $(cat /tmp/limits.*)"
        return
    fi
    for mode in $running; do
        compare_limits "$mode" stuck_reader "$1" receiver "$(cat /tmp/limits.never)"
        compare_limits "$mode" black_hole $(($1 + 1)) network "$(cat /tmp/limits.hole)"
        compare_limits "$mode" thinking_server $(($1 + 2)) answer "$(cat /tmp/limits.answers)"
    done
}

# waiting MODE PORT: the number of connects that wait for an answer; then that of their retransmitted SYNs.
waiting() {
    for metric in tcp_connecting tcp_connecting_retransmits; do
        value=$(metric_sum "$(metrics_url "$1")" "${prefix}_$metric" "server_port=$2")
        echo "${value:-0}"
    done | tr '\n' ' '
}

has_waiting() { # MODE PORT CONNECTS
    # shellcheck disable=SC2046 # two numbers
    set -- "$3" $(waiting "$1" "$2")
    [ "$2" -eq "$1" ] && [ "$3" -ge "$1" ]
}

is_waiting_no_more() { [ "$(waiting "$1" "$2")" = '0 0 ' ]; }

# all_connecting PORT: connects to a port that does not answer, while they wait and once they are given up. In mode `events` a connect is
# reported when it ends.
all_connecting() {
    nft add table inet silent && nft add chain inet silent in '{ type filter hook input priority 0; }' &&
        nft add rule inet silent in tcp dport "$1" drop ||
        fail connecting "nft refused it"
    connects=
    for _ in 1 2 3; do
        wget -q -O - "http://127.0.0.1:$1/" >/dev/null 2>&1 &
        connects="$connects $!"
    done
    for mode in $running; do
        [ "$mode" != events ] || continue
        until_true 60 has_waiting "$mode" "$1" 3
        # shellcheck disable=SC2046 # two numbers
        set -- "$1" $(waiting "$mode" "$1")
        same "connecting_${mode}" 3 "$2"
        at_least "connecting_${mode}_retransmits" 3 "$3"
    done
    # shellcheck disable=SC2086 # a list of processes
    kill $connects
    for mode in $running; do
        [ "$mode" != events ] || continue
        until_true 60 is_waiting_no_more "$mode" "$1"
        same "connecting_${mode}_ended" "0 0 " "$(waiting "$mode" "$1")"
    done
    nft flush ruleset
}
