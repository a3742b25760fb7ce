# shellcheck shell=sh
# Connections that are reset, by either end, while data is unacknowledged and unsent. Source it after flowtap.sh.

# all_resets FIRST_PORT: for a flowtap that runs the modes of $running.
all_resets() {
    holders='' holding=yes
    set -- "$1/ipv4" "$(($1 + 1))/ipv6" "$(($1 + 2))/ipv4" "$(($1 + 3))/ipv6"
    by_peer=''
    for port in "$@"; do
        [ "$port" != "$3" ] || by_peer=--by-peer
        # shellcheck disable=SC2046,SC2086 # a list of arguments
        resets --connections 50 $by_peer $(ends "$port") >"/tmp/reset.${port%/*}" 2>&1 &
        holders="$holders $!"
    done
    for port in "$@"; do until_true 60 grep -qs state=holding "/tmp/reset.${port%/*}" || holding=no; done
    if [ $holding = yes ]; then
        for port in "$@"; do application_sums "$port" "$(grep state=holding "/tmp/reset.${port%/*}")"; done >/tmp/expected
        for mode in $running; do
            case $mode in
            events) expect_sums reset_events_open events /tmp/expected known_while_open some_passed_over ;;
            sock_diag) expect_sums reset_sock_diag sock_diag /tmp/expected only_bytes ;;
            *) expect_sums "reset_${mode}_open" "$mode" /tmp/expected all_columns ;;
            esac
        done
    fi
    # shellcheck disable=SC2086 # a list of processes
    kill -TERM $holders
    # shellcheck disable=SC2086
    wait $holders
    for port in "$@"; do application_sums "$port" "$(tail -n 1 "/tmp/reset.${port%/*}")"; done >/tmp/expected
    if [ "$(cat /tmp/reset.* | grep -c state=done)" -ne 4 ]; then
        fail resets "resets: $(cat /tmp/reset.*)"
        return
    fi
    for mode in $running; do
        [ "$mode" = sock_diag ] || expect_sums "reset_${mode}_closed" "$mode" /tmp/expected all_columns
    done
}
