# shellcheck shell=sh
# Checks of flowtap on every kernel of the matrix: doctor agrees, and in each mode that loads the application's sums
# are met to the byte and the connection, nothing was dropped, and it stops when it is asked to.
#
# In: CHECKS in the environment, any of "modes processes owners links limits reloads drops translation inspect
# flow_logs", or short_translation for that part of translation; default all.
# shellcheck source=tests/vm/guest.sh
. /checks/guest.sh
# shellcheck source=tests/vm/flowtap.sh
. /checks/flowtap.sh
# shellcheck source=tests/vm/modes.sh
. /checks/modes.sh
# shellcheck source=tests/vm/processes.sh
. /checks/processes.sh
# shellcheck source=tests/vm/owners.sh
. /checks/owners.sh
# shellcheck source=tests/vm/links.sh
. /checks/links.sh
# shellcheck source=tests/vm/reloads.sh
. /checks/reloads.sh
# shellcheck source=tests/vm/resets.sh
. /checks/resets.sh
# shellcheck source=tests/vm/drops.sh
. /checks/drops.sh
# shellcheck source=tests/vm/limits.sh
. /checks/limits.sh
# shellcheck source=tests/vm/translation.sh
. /checks/translation.sh
# shellcheck source=tests/vm/inspect.sh
. /checks/inspect.sh
# shellcheck source=tests/vm/flow_logs.sh
. /checks/flow_logs.sh

wanted() { case " ${CHECKS:-modes processes owners links limits reloads drops translation inspect flow_logs} " in *" $1 "*) ;; *) return 1 ;; esac; }

# started NAME MODE...: starts flowtap, or says that it does not.
started() {
    started_name=$1
    shift
    if start_flowtap "$@" && within_budget "$started_name"; then
        # The records of that table are exact, but `inspect` finds no connection of theirs, and a reload to mode `sockets` is not exact.
        if has_sockets_mode && has_separate_table; then
            fail "${started_name}_shares_the_state" "$(grep 'a separate table' /tmp/flowtap.log)"
        fi
        return 0
    fi
    fail "${started_name}_starts" "$(tail -n 5 /tmp/flowtap.log)"
    return 1
}

timed() { # NAME COMMAND...
    timed_name=$1 timed_from=$(cut -d. -f1 /proc/uptime)
    shift
    "$@"
    info "${timed_name}_seconds" $(($(cut -d. -f1 /proc/uptime) - timed_from))
}

# A machine with little memory remembers few connections that have closed; what comes late of those beyond is answered with a
# reset.
echo 65536 >/proc/sys/net/ipv4/tcp_max_tw_buckets

# Modes that load here, of which the first is what auto has to pick.
running='events sock_diag'
if has_sockets_mode; then running="sockets $running"; fi

model_as_asked

if wanted modes; then
    doctor
    without_kprobes
fi
# Debian's kernels have a level of paranoia at which only CAP_SYS_ADMIN has kprobes, and flowtap does not keep that. Up to this
# one CAP_PERFMON is enough.
echo 2 >/proc/sys/kernel/perf_event_paranoid

if wanted modes; then
    first_port=7900
    for mode in auto sockets events sock_diag; do
        first_port=$((first_port + 100))
        timed "${mode}_mode" one_mode $mode $first_port
    done
fi
if wanted processes; then
    first_port=8400
    for mode in $running; do
        # Shorter connections than an interval are out of its sight by design.
        [ "$mode" != sock_diag ] || continue
        if started "${mode}_processes" "$mode"; then
            several_processes "$mode" $first_port
            stop_flowtap "${mode}_processes"
        fi
        first_port=$((first_port + 100))
    done
    # With so little room for options no socket gets storage, and connections are in the table, for whose scan flowtap needs Linux 6.2.
    case $(uname -r) in
    5.* | 6.[01].*) ;;
    *)
        optmem_max=$(cat /proc/sys/net/core/optmem_max)
        echo 100 >/proc/sys/net/core/optmem_max
        if started table_processes sockets; then
            several_processes sockets 9600 table
            stop_flowtap table_processes
        fi
        echo "$optmem_max" >/proc/sys/net/core/optmem_max
        ;;
    esac
fi
if wanted owners; then
    first_port=9100
    for mode in $running; do
        # It knows no processes.
        [ "$mode" != sock_diag ] || continue
        timed "${mode}_owners" all_owners "$mode" $first_port
        first_port=$((first_port + 100))
    done
fi
if wanted links; then
    # shellcheck disable=SC2086 # a list of modes
    if started links $running; then
        timed resets all_resets 8600
        timed links all_links 8700
        left_out links
        stop_flowtap links
    fi
fi
if wanted limits; then
    more_families=$limits_families
    # shellcheck disable=SC2086 # a list of modes
    if started limits $running; then
        timed limits all_limits 9500
        timed connecting all_connecting 9510
        stop_flowtap limits
    fi
    more_families=''
fi
if wanted reloads; then
    first_port=9700
    for mode in $running; do
        [ "$mode" != sock_diag ] || continue
        timed "${mode}_reloads" all_reloads "$mode" $first_port
        first_port=$((first_port + 100))
    done
fi
if wanted drops && started drops auto; then
    timed drops all_drops
    stop_flowtap drops
fi
if wanted translation || wanted short_translation; then
    make_translation
    more_families=$translation_families
    with_ebpf=${running% sock_diag}
    # shellcheck disable=SC2086 # a list of modes
    if wanted translation && started translation $with_ebpf; then
        # shellcheck disable=SC2086
        timed translation all_translations $with_ebpf
        stop_flowtap translation
    fi
    # With `inspect`, which needs what mode `sockets` does, those of connections that are shorter than the pause between scans.
    if has_sockets_mode; then
        more_keys=$translation_inspect_keys
        # shellcheck disable=SC2086
        if started short_translation $with_ebpf; then
            # shellcheck disable=SC2086
            timed short_translation all_short_translations $with_ebpf
            stop_flowtap short_translation
        fi
        more_keys=''
    else
        skip short_translation "inspect needs Linux 5.12"
    fi
    more_families=''
fi
# Cookies and socket storage in tracing programs came with 5.12, as mode `sockets`.
if wanted inspect && has_sockets_mode; then
    more_families=$inspect_families more_keys=$inspect_keys
    with_ebpf=${running% sock_diag}
    # shellcheck disable=SC2086 # a list of modes
    if started inspect $with_ebpf; then
        # shellcheck disable=SC2086
        timed inspect all_inspected $with_ebpf
        stop_flowtap inspect
    fi
    more_families='' more_keys=''
elif wanted inspect; then
    more_keys=$inspect_keys
    if started inspect events; then
        is_refused_with_reason
        stop_flowtap inspect
    fi
    more_keys=''
fi
if wanted flow_logs; then
    write_flow_logs_config >/tmp/flowtap.yaml
    if started_as_configured; then
        timed flow_logs all_flow_logs
        stop_flowtap flow_logs
    else
        fail flow_logs_starts "$(tail -n 5 /tmp/flowtap.log)"
    fi
fi
