# shellcheck shell=sh
# Words for the scripts that run inside the emulated machine (busybox sh). Source it first: `. /checks/guest.sh`.
#
#   VM-RESULT name=NAME status=pass|fail|skip detail=TEXT   one per check; what the verdict rests on
#   VM-INFO name=NAME value=TEXT                            facts for the log

# The shell runs its own applets whatever PATH says, and its `ip` and `tc` are not the real ones.
ip() { /usr/local/bin/ip "$@"; }
tc() { /usr/local/bin/tc "$@"; }
nft() { /usr/local/bin/nft "$@"; }

result() { # NAME STATUS DETAIL
    printf 'VM-RESULT name=%s status=%s detail=%s\n' "$1" "$2" "$(printf '%s' "$3" | tr '\n' ' ')"
}
pass() { result "$1" pass "$2"; }
fail() { result "$1" fail "$2"; }
skip() { result "$1" skip "$2"; }
info() { printf 'VM-INFO name=%s value=%s\n' "$1" "$2"; }

# same NAME EXPECTED ACTUAL: a check that two texts are equal.
same() {
    if [ "$2" = "$3" ]; then pass "$1" "$3"; else fail "$1" "expected $2, got $3"; fi
}

# at_least NAME LOW ACTUAL: a check that a number is there and not below another.
at_least() {
    if [ "${3:-x}" -ge "$2" ] 2>/dev/null; then pass "$1" "$3"; else fail "$1" "expected at least $2, got ${3:-nothing}"; fi
}

# linux_at_least MAJOR MINOR: whether the kernel is of that series or a later one.
linux_at_least() {
    version=$(uname -r)
    major=${version%%.*} minor=${version#*.} minor=${minor%%.*}
    [ "$major" -gt "$1" ] || { [ "$major" -eq "$1" ] && [ "$minor" -ge "$2" ]; }
}

# field KEY LINE: the value of KEY in a line of key=value words.
field() { printf '%s\n' "$2" | tr ' ' '\n' | sed -n "s/^$1=//p"; }

# fetch URL: its body. Not by `wget -T`: that crashes in Debian's static busybox.
fetch() { timeout 5 wget -q -O - "$1"; }

# until_true SECONDS COMMAND...: tries until it succeeds; fails when the time is over.
until_true() {
    until_end=$(($(cut -d. -f1 /proc/uptime) + $1))
    shift
    until "$@"; do
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$until_end" ] || return 1
        sleep 0.2
    done
}

# snmp KEY FILE: a counter of /proc/net/snmp or /proc/net/netstat, by the name in its heading line, e.g. `snmp RetransSegs snmp`.
snmp() {
    awk -v key="$1" '!($1 in names) { names[$1] = $0; next }
        { count = split(names[$1], name); for (i = 2; i <= count; i++) if (name[i] == key) { print $i; exit } }' "/proc/net/$2"
}

# The preemption model that the kernel runs with now: none, voluntary, lazy or full. Kernels before 5.12 have the one that
# they were built with, and no list.
preemption_model() {
    sed -n 's/.*(\(.*\)).*/\1/p' /sys/kernel/debug/sched/preempt 2>/dev/null | grep . ||
        sed -n 's/^CONFIG_PREEMPT_\(NONE\|VOLUNTARY\)=y/\1/p' "/boot/config-$(uname -r)" | tr '[:upper:]' '[:lower:]'
}
