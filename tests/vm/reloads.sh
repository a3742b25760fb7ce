# shellcheck shell=sh
# Reloads under load that replace the programs: other sizes of rings, and tables that grow. No byte may be missed, no
# connection counted twice. Source it after flowtap.sh.

readonly reload_rounds=6

reloads_applied() { metric_sum "$own_url" flowtap_config_reloads_total outcome=applied; }

reloaded_since() { [ "$(reloads_applied)" -gt "$1" ]; }

# Writes the config of a round in one piece, and waits until it is applied.
reload_round() { # MODE ROUND
    ring=$((1 << (20 + $2 % 3)))
    more_keys=", ring_buffer_bytes: $ring, max_sockets: $((4000 * $2 * $2))"
    reloads_before=$(reloads_applied)
    write_config "$1" >/tmp/flowtap.next
    mv /tmp/flowtap.next /tmp/flowtap.yaml
    kill -HUP "$flowtap"
    until_true 120 reloaded_since "${reloads_before:-0}"
}

# Short connections by PORT/FAMILY, until /tmp/reloads.end is there; their sums go to /tmp/expected.reloads.
short_connections() { # PORT/FAMILY
    : >/tmp/load
    while [ ! -e /tmp/reloads.end ]; do
        # shellcheck disable=SC2046 # a list of arguments
        traffic $(ends "$1") --connections 200 --parallel 8 --max-bytes 4000 2>&1 | tail -n 1 >>/tmp/load
    done
    awk -v id="$1" '{
        for (i = 1; i <= NF; i++) { split($i, pair, "="); sum[pair[1]] += pair[2] }
        if (!/state=done/) broken = 1
    } END {
        if (broken) exit 1
        connections = sum["connections"]
        printf "%s %.0f %.0f %.0f %.0f %d %d %d %d\n", id, sum["client_sent"], sum["client_received"],
            sum["server_sent"], sum["server_received"], connections, connections, connections, connections
    }' /tmp/load >/tmp/expected.reloads
}

all_reloads() { # MODE FIRST_PORT
    more_keys=', max_sockets: 4000'
    if ! start_flowtap "$1"; then
        fail "$1_reloads_start" "$(tail -n 5 /tmp/flowtap.log)"
        more_keys=''
        return
    fi
    rm -f /tmp/reloads.end /tmp/expected.reloads
    # shellcheck disable=SC2046 # a list of arguments
    traffic --hold --connections 50 $(ends "$2/ipv4") >"/tmp/held.$2" 2>&1 &
    holder=$!
    until_true 60 grep -qs state=holding "/tmp/held.$2"
    short_connections "$(($2 + 1))/ipv4" &
    load=$!
    round=1 failed=''
    while [ $round -le $reload_rounds ]; do
        reload_round "$1" $round || failed="$failed $round"
        round=$((round + 1))
    done
    : >/tmp/reloads.end
    wait $load
    kill -TERM $holder
    wait $holder
    application_sums "$2/ipv4" "$(tail -n 1 "/tmp/held.$2")" >/tmp/expected
    cat /tmp/expected.reloads >>/tmp/expected
    same "$1_reloads_applied" '' "$failed"
    expect_sums "$1_bytes_over_reloads" "$1" /tmp/expected all_columns
    nothing_lost "$1"
    same "$1_reloads_continue" 0 "$(grep -c 'restarts the measurement' /tmp/flowtap.log)"
    stop_flowtap "$1_reloads"
    more_keys=''
}
