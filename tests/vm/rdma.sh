# shellcheck shell=sh
# The receiver rdma on soft-RoCE: its counters against `rdma statistic`, its queue pairs against `rdma resource`, and a device that leaves
# and comes back. flowtap runs as a user without any capability.
#
# shellcheck source=tests/vm/guest.sh
. /checks/guest.sh
# shellcheck source=tests/vm/flowtap.sh
. /checks/flowtap.sh

tar -xf /checks/rdma-tools.tar -C / || exit 1
url=http://127.0.0.1:9464/metrics
names=primus_lens_network_rdma
device=rxe0

add_device() {
    rdma link add $device type rxe netdev v0
    until_true 20 link_is ACTIVE
}
link_is() { rdma link show $device/1 | grep -q "state $1"; }

# Counters as lines `NAME VALUE`, in order.
kernel_counters() {
    rdma statistic show link $device/1 | tr -s ' ' '\n' | awk 'NR > 2 { if (NR % 2) name = $1; else print name, $1 }' | sort
}

# Counts of flowtap since its start by the names of `rdma statistic`. Where the port also has the standard counters, its packets are from
# those, and the driver's are among the others.
flowtap_counters() {
    fetch $url | awk -v names=$names '
        function label(name) {
            if (!match($0, "[{,]" name "=\"[^\"]*\"")) return ""
            return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4)
        }
        index($0, names "_packets{") == 1 { packets[label("direction") == "inbound" ? "rcvd_pkts" : "sent_pkts"] = $NF }
        index($0, names "_") == 1 && label("counter") != "" { count[label("counter")] = $NF }
        END {
            for (name in count) print name, count[name]
            for (name in packets) if (!(name in count)) print name, packets[name]
        }' | sort
}

# counters_since FILE: what the kernel has counted since the counters in FILE.
counters_since() {
    kernel_counters | awk -v before="$1" 'BEGIN { while ((getline line < before) > 0) { split(line, word, " "); at[word[1]] = word[2] } }
        { print $1, $2 - at[$1] }'
}

counters_are() { # EXPECTED_FILE
    flowtap_counters | awk -v of="$1" 'BEGIN { while ((getline line < of) > 0) { split(line, word, " "); named[word[1]] = 1 } }
        $1 in named' >/tmp/counted
    cmp -s "$1" /tmp/counted
}

expect_counters() { # NAME EXPECTED_FILE
    if until_true 30 counters_are "$2"; then
        pass "$1" "$(wc -l <"$2") counters, $(awk '$1 == "sent_pkts" { print $2 }' "$2") packets sent"
    else
        fail "$1" "expected $(tr '\n' ' ' <"$2"), got $(tr '\n' ' ' </tmp/counted)"
    fi
}

# Queue pairs as lines `TYPE STATE COMM NUMBER`, in order.
kernel_pairs() {
    rdma resource show qp | awk '{ type = state = comm = ""
        for (i = 1; i < NF; i++) { if ($i == "type") type = $(i + 1); if ($i == "state") state = $(i + 1); if ($i == "comm") comm = $(i + 1) }
        count[type " " state " " comm]++ }
        END { for (pair in count) print pair, count[pair] }' | sort
}

flowtap_pairs() {
    fetch $url | awk -v names=$names '
        function label(name) {
            if (!match($0, "[{,]" name "=\"[^\"]*\"")) return ""
            return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4)
        }
        index($0, names "_queue_pairs{") == 1 && $NF > 0 { print label("qp_type"), label("qp_state"), label("comm"), $NF }' | sort
}

pairs_agree() {
    kernel_pairs >/tmp/pairs.kernel
    flowtap_pairs >/tmp/pairs.flowtap
    cmp -s /tmp/pairs.kernel /tmp/pairs.flowtap && grep -q "${1:-.}" /tmp/pairs.kernel
}

expect_pairs() { # NAME PATTERN: a line that has to be among them
    if until_true 30 pairs_agree "$2"; then
        pass "$1" "$(tr '\n' ';' </tmp/pairs.kernel)"
    else
        fail "$1" "expected $2 in $(tr '\n' ';' </tmp/pairs.kernel) and the same of flowtap, got $(tr '\n' ';' </tmp/pairs.flowtap)"
    fi
}

# ping ROUNDS: messages both ways between two processes. Index 1 is the IPv4 address of the device.
ping() {
    ibv_rc_pingpong -d $device -g 1 -s 2048 -n "$1" >/tmp/server 2>&1 &
    server=$!
    until_true 20 sh -c "rdma resource show qp | grep -q 'state INIT'"
    ibv_rc_pingpong -d $device -g 1 -s 2048 -n "$1" 10.9.0.1 >/tmp/client 2>&1
    wait $server
}

level() { metric_sum $url "$@"; }
link_up() { [ "$(level ${names}_link_up device=$device)" = "$1" ]; }

# The checksum of RoCE: of kernels that have it in their list of algorithms, which loads its module by name.
modprobe crc32_generic 2>/dev/null
if ! modprobe rdma_rxe 2>/dev/null || ! modprobe ib_uverbs; then
    skip rdma "this kernel has no soft-RoCE"
    exit 0
fi
ip link add v0 type veth peer name v1
ip link set v0 up
ip link set v1 up
ip addr add 10.9.0.1/24 dev v0
if ! add_device; then
    fail rdma_link "$(rdma link show 2>&1)"
    exit 1
fi
chmod 666 /dev/infiniband/* 2>/dev/null

cat >/tmp/flowtap.yaml <<'CONFIG'
receivers: {rdma: {interval: 1s}}
processors: {window: {interval: 1s}}
exporters: {prometheus: {endpoint: "127.0.0.1:9464"}}
service:
  admin: {endpoint: "127.0.0.1:13134"}
  telemetry: {metrics: {endpoint: "127.0.0.1:9460"}}
  pipelines: {metrics: {receivers: [rdma], processors: [window], exporters: [prometheus]}}
CONFIG
kernel_counters >/tmp/before
su -s /bin/sh nobody -c 'exec flowtap run --config /tmp/flowtap.yaml' >/tmp/flowtap.log 2>&1 &
flowtap=$!
if ! until_true 120 ready_or_dead || not_running; then
    fail rdma_starts "$(tail -n 3 /tmp/flowtap.log)"
    exit 1
fi
until_true 30 link_up 1
same rdma_link_is_up 1 "$(level ${names}_link_up device=$device)"

ping 300
info rdma_client "$(tail -n 2 /tmp/client | tr '\n' ' ')"
counters_since /tmp/before >/tmp/expected
at_least rdma_packets_were_sent 600 "$(awk '$1 == "sent_pkts" { print $2 }' /tmp/expected)"
expect_counters rdma_statistic /tmp/expected

# A server waits with its queue pair, then both ends are connected for long.
ibv_rc_pingpong -d $device -g 1 -n 2000000 >/tmp/server 2>&1 &
server=$!
expect_pairs rdma_resource_of_a_waiting_process 'RC INIT ibv_rc_pingpong 1'
ibv_rc_pingpong -d $device -g 1 -n 2000000 10.9.0.1 >/tmp/client 2>&1 &
client=$!
expect_pairs rdma_resource_of_connected_processes 'RC RTS ibv_rc_pingpong 2'
kill $server $client
wait $server $client 2>/dev/null
expect_pairs rdma_resource_after_their_end 'GSI'
# Packets may still have been on their way; what is counted now is all.
until_true 10 sh -c 'rdma statistic show link rxe0/1 >/tmp/a; sleep 1; rdma statistic show link rxe0/1 | cmp -s - /tmp/a'
counters_since /tmp/before >/tmp/expected
expect_counters rdma_statistic_of_a_load /tmp/expected

# Away and back: its counters begin at 0, and flowtap's count on.
rdma link delete $device
if until_true 30 link_up 0; then pass rdma_device_leaves "link_up 0"; else fail rdma_device_leaves "link_up $(level ${names}_link_up)"; fi
flowtap_counters >/tmp/counted.before
add_device
chmod 666 /dev/infiniband/* 2>/dev/null
until_true 30 link_up 1
same rdma_device_is_back 1 "$(level ${names}_link_up device=$device)"
ping 100
kernel_counters | awk 'BEGIN { while ((getline line < "/tmp/counted.before") > 0) { split(line, word, " "); at[word[1]] = word[2] } }
    { print $1, $2 + at[$1] }' >/tmp/expected
expect_counters rdma_statistic_over_a_reset /tmp/expected
at_least rdma_resets_are_counted 1 "$(metric_sum $own_url flowtap_receiver_counter_resets)"
same rdma_unread_values 0 "$(metric_sum $own_url flowtap_receiver_unread_values)"
same rdma_capabilities 0000000000000000 "$(sed -n 's/^CapEff:[[:space:]]*//p' "/proc/$(pidof flowtap)/status")"
stop_flowtap rdma
