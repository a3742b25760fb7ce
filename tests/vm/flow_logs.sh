# shellcheck shell=sh
# Log records of UDP flows, with the hooks that this kernel has: their sums are the bytes and datagrams that the application sent
# and received. Source it after flowtap.sh.

flow_logs=/tmp/flows

# write_flow_logs_config
write_flow_logs_config() {
    cat <<YAML
receivers:
  ebpf: {interval: 1s, udp: {hooks: functions, idle: 5s}}
processors:
  direction: {}
  policy: {}
  connections: {interval: 1s, active_timeout: 2s, udp: true}
exporters:
  file: {path: $flow_logs}
service:
  shutdown_timeout: 60s
  admin: {endpoint: "127.0.0.1:13134"}
  pipelines:
    logs: {receivers: [ebpf], processors: [direction, policy, connections], exporters: [file]}
YAML
}

# flow_sums PORT ROLE: `REQUESTS ANSWERS DATAGRAMS ANSWERED FLOWS ENDED ACTIVE` of the records of one end of the flows to a
# port: the sums of their differences, the number of flows and of ends, and of records of flows that went on.
flow_sums() {
    cat $flow_logs/* | awk -v port="$1" -v role="\"role\":\"$2\"" '
        function number(key) {
            if (!match($0, "\"" key "\":-?[0-9]+")) return 0
            return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
        }
        !index($0, role) || number("destination_port") != port || !index($0, "flowtap.udp.flow") { next }
        { requests += number("source_bytes"); answers += number("destination_bytes")
          datagrams += number("source_packets"); answered += number("destination_packets")
          flows[number("source_port")] = 1
          if (index($0, "\"outcome\":\"active\"")) active++
          else ended++ }
        END {
            for (flow in flows) count++
            printf "%.0f %.0f %.0f %.0f %d %d %d\n", requests, answers, datagrams, answered, count, ended, active
        }'
}

flows_have_ended() { # PORT ROLE FLOWS
    [ "$(flow_sums "$1" "$2" | cut -d' ' -f6)" -ge "$3" ]
}

# flows_are_logged NAME PORT ARGUMENT...: one run of the application.
flows_are_logged() {
    flows_name=$1 flows_port=$2
    shift 2
    line=$(datagrams --port "$flows_port" "$@") || fail "flow_logs_${flows_name}" "$line"
    flows=$(field flows "$line")
    expected="$(field requests "$line") $(field answers "$line") $(field datagrams "$line") $(field answered "$line") $flows $flows"
    for role in client server; do
        until_true 60 flows_have_ended "$flows_port" $role "$flows"
        same "flow_logs_${flows_name}_$role" "$expected" "$(flow_sums "$flows_port" $role | cut -d' ' -f1-6)"
    done
}

all_flow_logs() {
    info flow_logs_step "$(sed -n 's/.*measuring UDP.*step="*\([a-z_]*\).*/\1/p' /tmp/flowtap.log)"
    flows_are_logged ipv4 7201 --family 4 --clients 60 --rounds 3
    flows_are_logged ipv6 7202 --family 6 --clients 60 --rounds 3
    # Of several records each: the sum of the differences is the total.
    flows_are_logged lasting 7203 --family 4 --clients 4 --rounds 8 --pause-ms 1500
    at_least flow_logs_lasting_active 4 "$(flow_sums 7203 client | cut -d' ' -f7)"
}
