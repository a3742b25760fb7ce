# shellcheck shell=sh
# The option `inspect`: protocols, names of TLS servers and exchanges at both ends, against what the applications say of themselves.
# Source it after flowtap.sh.

inspect_keys=', inspect: {protocols: true, server_names: full, exchanges: true, budget: 100%}'
inspect_families='
      network_tcp_exchanges: {labels: [flow, server_port, protocol, server_name]}
      network_tcp_exchange_duration: {labels: [flow, server_port]}'
inspect_connections=50 inspect_requests=10

# exchange_us MODE FLOW PORT: the time of all answers, in microseconds.
exchange_us() {
    fetch "$(metrics_url "$1")" | awk -v name="${prefix}_tcp_exchange_duration_sum{" -v flow="flow=\"$2\"" -v port="server_port=\"$3\"" '
        index($0, name) == 1 && index($0, flow) && index($0, port) { sum += $NF }
        END { printf "%.0f\n", sum * 1000000 }'
}

has_exchanges() { # MODE COUNT LABEL=VALUE...
    exchanges_mode=$1 exchanges=$2
    shift 2
    [ "$(metric_sum "$(metrics_url "$exchanges_mode")" "${prefix}_tcp_exchanges" "$@")" = "$exchanges" ]
}

# not_longer NAME SHORT LONG: times of exchanges that are rounded to microseconds.
not_longer() {
    if [ "$2" -le $(($3 + inspect_connections * inspect_requests)) ]; then pass "$1" "$2 of $3 us"
    else fail "$1" "$2 us is more than $3 us"; fi
}

# inspected BEGIN PORT NAME MODE...: NAME is the server's, or empty.
inspected() {
    begin=$1 inspected_port=$2 server_name=$3
    shift 3
    line=$(inspect --port "$inspected_port" --connections $inspect_connections --requests $inspect_requests \
        --thought-us 2000 --begin "$begin") || fail "inspect_$begin" "$line"
    count=$((inspect_connections * inspect_requests))
    for inspected_mode in "$@"; do
        for flow in egress ingress; do
            # shellcheck disable=SC2086 # none or one
            until_true 120 has_exchanges "$inspected_mode" $count flow=$flow server_port="$inspected_port" protocol="$begin" \
                ${server_name:+server_name=$server_name}
            # shellcheck disable=SC2086
            same "inspect_${inspected_mode}_${begin}_$flow" $count "$(metric_sum "$(metrics_url "$inspected_mode")" \
                ${prefix}_tcp_exchanges flow=$flow server_port="$inspected_port" protocol="$begin" ${server_name:+server_name=$server_name})"
        done
        at_server=$(exchange_us "$inspected_mode" ingress "$inspected_port")
        at_client=$(exchange_us "$inspected_mode" egress "$inspected_port")
        # The kernel sees a request before the server reads it and an answer before the client does, whatever the scheduler does.
        not_longer "inspect_${inspected_mode}_${begin}_server" "$(field server_us "$line")" "$at_server"
        not_longer "inspect_${inspected_mode}_${begin}_network" "$at_server" "$at_client"
        not_longer "inspect_${inspected_mode}_${begin}_client" "$at_client" "$(field client_us "$line")"
    done
}

# all_inspected MODE...: for a flowtap that runs in these modes.
all_inspected() {
    inspected http 7101 '' "$@"
    inspected redis 7102 '' "$@"
    inspected tls 7103 vm.example.test "$@"
}

# For a flowtap with `inspect` on a kernel that does not have what it needs: everything else works, and a warning has the reason.
is_refused_with_reason() {
    refusal=$(grep -A 1 'inspect. does not work here' /tmp/flowtap.log)
    case $refusal in
    *5.12*) pass inspect_is_refused "$refusal" ;;
    *) fail inspect_is_refused "no warning with the kernel that it needs: $(tail -n 5 /tmp/flowtap.log)" ;;
    esac
}
