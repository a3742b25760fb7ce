# shellcheck shell=sh
# Whose connections are: of sockets that listened before flowtap, of a process that accepts for another, of containers that are gone
# before flowtap looks. Source it after flowtap.sh.

# Bytes that the server at a port received, of one process; of all without a name.
received_by() { metric_sum "$(metrics_url "$1")" ${prefix}_tcp_flow_ingress lport="$2" direction=inbound ${3:+comm="$3"}; }

received_all() { [ "$(received_by "$1" "$2")" = "$3" ]; }

# owner_is NAME MODE PORT BYTES PROCESS AT_LEAST: once all bytes are there, so many are of that process.
owner_is() {
    until_true 30 received_all "$2" "$3" "$4"
    at_least "$1" "$6" "$(received_by "$2" "$3" "$5")"
}

says_ready() { grep -qs ready "$1"; }

container_bytes() { metric_sum "$(metrics_url "$1")" ${prefix}_tcp_flow_egress rport="$2" direction=outbound; }
container_bytes_are() { [ "$(container_bytes "$1" "$2")" = "$3" ]; }

# Containers that come and go while flowtap gets no processor.
short_containers() { # MODE PORT COUNT
    kill -STOP "$flowtap"
    owners containers "$2" "$3" >/tmp/owners.containers 2>&1
    kill -CONT "$flowtap"
    until_true 60 container_bytes_are "$1" "$2" $((5 * $3))
    same "$1_short_containers" "$3" "$(fetch "$(metrics_url "$1")" | grep "^${prefix}_tcp_flow_egress.*rport=\"$2\"" |
        grep 'direction="outbound"' | grep -c 'container_id="[0-9a-f]\{64\}"')"
    info "$1_short_containers_log" "$(tail -n 1 /tmp/owners.containers)"
}

all_owners() { # MODE FIRST_PORT
    owners listen "$2" >/tmp/owners.listen 2>&1 &
    listener=$!
    until_true 30 says_ready /tmp/owners.listen
    # No file is scanned for owners after the start.
    more_keys=', scan_listen_interval: 1h'
    more_families='      network_tcp_flow_ingress: {labels: [lport, direction, comm]}
      network_tcp_flow_egress: {labels: [rport, direction, container_id]}'
    if started "$1_owners" "$1"; then
        owners connect "$2" >/tmp/owners.connect 2>&1 &
        client=$!
        owner_is "$1_listener_from_before" "$1" "$2" 5 ow-listen 5
        kill "$client"
        owners prefork $(($2 + 1)) >/tmp/owners.prefork 2>&1 &
        until_true 30 says_ready /tmp/owners.prefork
        owners reset $(($2 + 1)) >/tmp/owners.reset 2>&1
        # Mode events reports the first segment at once, and so perhaps before the connection is accepted.
        if [ "$1" = events ]; then after_accept=7; else after_accept=12; fi
        if has_fentry; then
            owner_is "$1_reset_by_peer" "$1" $(($2 + 1)) 12 ow-worker $after_accept
        else
            # The process that listens has it until a file scan, and the log reports that.
            owner_is "$1_reset_by_peer_without_fentry" "$1" $(($2 + 1)) 12 ow-parent 12
            same "$1_says_accepts_are_unseen" 1 "$(grep -c 'accept() is not observed' /tmp/flowtap.log)"
        fi
        short_containers "$1" $(($2 + 2)) 300
        stop_flowtap "$1_owners"
    fi
    more_keys='' more_families=''
    kill "$listener"
}
