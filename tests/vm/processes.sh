# shellcheck shell=sh
# Several processes at once on two processors: the kernel leaves a BPF program out where another thread or an interrupt finds
# the processor inside it, and with preemption that is whenever the scheduler likes. Source it after flowtap.sh.

# several_processes MODE FIRST_PORT [NAME]: forty, each with a port and both ends of its connections, 25 at a time. The more threads want to
# run, the longer one that was preempted in a program waits inside it.
several_processes() {
    name=${3:-$1}_processes
    # On 5.10, with all 100 at once, connections of some of the forty stood still or were reset in 3 of 12 boots; by guess for want of
    # socket memory. A round with such a one measures nothing.
    for first in "$2" $(($2 + 40)) $(($2 + 80)); do
        run_processes "$first"
        [ -n "$unfinished" ] || break
        info "${name}_unfinished" "$unfinished"
    done
    [ -z "$unfinished" ] || { fail "$name" "traffic: $unfinished" && return; }
    for port in $ports; do
        application_sums "$port" "$(cat "/tmp/processes.${port%/*}")"
    done >/tmp/expected
    expect_sums "$name" "$1" /tmp/expected all_columns
    left_out "$name"
    info "${name}_coverage" "$(fetch "$own_url" | sed -n 's/^flowtap_receiver_coverage_\(.*\)_total{counter="active_opens".*} /\1=/p' | tr '\n' ' ')"
}

# run_processes FIRST_PORT: one round of forty; sets `ports`, and `unfinished` to what one of them printed that did not end.
run_processes() {
    started=$(cut -d. -f1 /proc/uptime)
    pids='' ports='' unfinished=''
    for number in $(seq 0 39); do
        port=$(($1 + number))/ipv$((number % 2 * 2 + 4))
        ports="$ports $port"
        # shellcheck disable=SC2046 # a list of arguments
        traffic --connections 100 --parallel 25 --seed $((number + 1)) --deadline 120 $(ends "$port") >"/tmp/processes.${port%/*}" 2>&1 &
        pids="$pids $!"
    done
    # shellcheck disable=SC2086 # a list of processes
    wait $pids
    info "${name}_seconds" $(($(cut -d. -f1 /proc/uptime) - started))
    for port in $ports; do
        line=$(cat "/tmp/processes.${port%/*}")
        case $line in *state=done*) ;; *) unfinished="$port ${line:-nothing}" ;; esac
    done
}

# The connections that ask for the metrics may be skipped too, between one reading and the other. Each run that a program at dropped
# packets misses is in network_drops, as a packet of reason `other`.
misses_agree() {
    of_kernel=$(misses | awk '!/^(total|on_drop)/ { sum += $2 } END { print sum + 0 }')
    exported=$(fetch "$own_url" | awk '/^flowtap_receiver_program_misses_total/ { sum += $NF } END { print sum + 0 }')
    [ "$of_kernel" = "$exported" ]
}

# left_out NAME: the runs that the kernel left out of each program, and whether flowtap exports the same.
left_out() {
    info "$1_misses" "$(misses | tr '\n' ' ')"
    until_true 10 misses_agree
    same "$1_misses_exported" "$of_kernel" "$exported"
}
