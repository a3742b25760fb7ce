# shellcheck shell=bash disable=SC2034,SC2154
# Debian packages for the kernel matrix, without installing any: kernels of other suites, and tools this machine lacks.
#
# Needs $cache (a directory) and die(). Everything comes through apt itself, from the repositories it is set up with, so
# proxies, signatures and checksums are apt's business; each suite has its own lists under $cache/apt and the machine's
# package state is neither used nor changed.

readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# Of the packages that are fetched. A caller that sets another one has a $cache for that one alone.
architecture=amd64

# Base addresses where Debian suites may be found: what apt has, then the places where a mirror keeps them beside it.
debian_bases() {
    local base
    # shellcheck disable=SC2016  # the dollar signs are apt's
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        sed 's|/*$||' | grep -E '^[a-z+]+://[^/]+/.*debian' | sort -u >"$cache/apt/bases"
    cat "$cache/apt/bases"
    while read -r base; do
        printf '%s\n' "${base%-security}-security" "${base%/*}/debian-archive/debian" "${base%/*}/debian-archive/debian-security"
    done <"$cache/apt/bases"
}

# suite_base SUITE: prints the base address that has the suite; fails if none has.
suite_base() {
    local base probe="$cache/apt/probe"
    while read -r base; do
        rm -f "$probe"
        if /usr/lib/apt/apt-helper -o Acquire::Retries=2 download-file "$base/dists/$1/InRelease" "$probe" \
            >"$cache/apt/probe.log" 2>&1; then
            printf '%s\n' "$base"
            return 0
        fi
    done < <(debian_bases | awk '!seen[$0]++')
    return 1
}

# apt_in SUITE COMMAND...: runs an apt tool that sees nothing but that suite. No locks: $cache has its own.
apt_in() {
    local dir="$cache/apt/$1" tool=$2
    shift 2
    "$tool" -q -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$dir/lists" -o Dir::Cache="$dir/cache" -o Dir::State::status="$dir/status" \
        -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o Acquire::Languages=none \
        -o Acquire::Retries=3 -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}

# open_suites NAME SUITE...: fetches the package lists of those suites that there are, once a run, for `apt_in NAME`. Lists of sources
# with $package_type=deb-src.
open_suites() {
    local dir="$cache/apt/$1" suite base
    [[ -e $dir/opened.$$ ]] && return 0
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    : >"$dir/sources.list"
    for suite in "${@:2}"; do
        base=$(suite_base "$suite") || continue
        echo "${package_type:-deb} [arch=$architecture signed-by=$keyring] $base $suite main" >>"$dir/sources.list"
    done
    [[ -s $dir/sources.list ]] || return 1
    [[ -e $dir/status ]] || : >"$dir/status"
    apt_in "$1" apt-get update >"$dir/update.log" 2>&1 || return 1
    rm -f "$dir"/opened.*
    : >"$dir/opened.$$"
}

# suites_of KERNEL: where to look for it, best first. The security suites are small and have the newest point release.
suites_of() {
    case ${1%-generic} in
    5.10) echo bullseye-security bullseye ;;
    6.1) echo bookworm-security bookworm ;;
    6.12) echo trixie-security trixie ;;
    newest) echo sid testing ;;
    *) echo bullseye-security bookworm-security trixie-security bullseye bookworm trixie sid experimental ;;
    esac
}

# kernel_release SUITE KERNEL: prints the highest release (`uname -r`) of that series among the suite's cloud kernels, of
# KERNEL-generic among those for any machine.
kernel_release() {
    local series=${2%-generic}
    series="${series//./\\.}[.+-]"
    [[ ${2%-generic} == newest ]] && series='[0-9]'
    apt_in "$1" apt-cache pkgnames linux- | sed -nE "s/^linux-(image|binary)-(${series}.*-$architecture)\$/\2/p" |
        awk -v generic="${2##*-}" '(generic == "generic") == ($0 !~ /-(cloud|rt)-[a-z0-9]+$/) && !/-rt-[a-z0-9]+$/' | sort -uV | tail -n 1
}

# fetch_kernel KERNEL: leaves $cache/kernels/KERNEL with `release`, `packages` and the unpacked packages in `root`.
fetch_kernel() {
    local kernel=$1 suite release='' package dir="$cache/kernels/$1" new="$cache/kernels/.$1.new"
    [[ -e $dir/release ]] && return 0
    for suite in $(suites_of "$kernel"); do
        open_suites "$suite" "$suite" || continue
        release=$(kernel_release "$suite" "$kernel")
        [[ -z $release ]] || break
    done
    [[ -n $release ]] || die "no kernel $kernel in $(suites_of "$kernel") through this machine's apt" \
        "(see $cache/apt/*/update.log)"
    rm -rf "$dir" "$new"
    mkdir -p "$new/root"
    # From 7.0 on the image is split in three; before, it is one package.
    for package in linux-{image,binary,modules,base}-"$release"; do
        apt_in "$suite" apt-cache show "$package" >/dev/null 2>&1 || continue
        (cd "$new" && apt_in "$suite" apt-get download "$package" >>download.log 2>&1) || die "cannot download $package"
    done
    for package in "$new"/*.deb; do
        dpkg-deb -x "$package" "$new/root"
        echo "$suite ${package##*/}" >>"$new/packages"
        rm "$package"
    done
    echo "$release" >"$new/release"
    mv "$new" "$dir"
}

# codename: prints the name of this machine's release of Debian.
codename() {
    # shellcheck source=/dev/null
    (. /etc/os-release && echo "$VERSION_CODENAME")
}

# unpack_packages DIRECTORY PACKAGE...: unpacks packages of this machine's release, for $architecture, with all their
# dependencies.
unpack_packages() {
    local deb to=$1 suite
    suite=$(codename)
    local dir="$cache/apt/$suite"
    [[ -e $to/.unpacked ]] && return 0
    shift
    open_suites "$suite" "$suite" || die "cannot read the package lists of $suite for $architecture (see $dir)"
    rm -rf "$to"
    mkdir -p "$to"
    rm -f "$dir"/cache/archives/*.deb
    # Nothing is installed, as its status is empty, so apt fetches every dependency.
    apt_in "$suite" apt-get -y --no-install-recommends --download-only install "$@" >"$dir/log" 2>&1 ||
        die "cannot download $* for $architecture: $(tail -n 2 "$dir/log")"
    for deb in "$dir"/cache/archives/*.deb; do
        dpkg-deb -x "$deb" "$to"
        rm "$deb"
    done
    : >"$to/.unpacked"
}

# unpack_tool PACKAGE: unpacks a package of this machine's release, or of its backports, under $cache/tools, with what
# it depends on and the machine has not. To install it could remove other packages, and would need root.
unpack_tool() {
    local deb suite dir="$cache/apt/tools" newer=() architecture=amd64
    [[ -e $cache/tools/.$1 ]] && return 0
    suite=$(codename)
    mkdir -p "$dir" "$cache/tools"
    ln -sf /var/lib/dpkg/status "$dir/status"
    open_suites tools "$suite" "$suite-backports" || die "cannot read the package lists of $suite (see $dir)"
    if grep -q " $suite-backports " "$dir/sources.list"; then
        newer=(-t "$suite-backports")
    fi
    rm -f "$dir"/cache/archives/*.deb
    apt_in tools apt-get -y --no-install-recommends --download-only "${newer[@]}" install "$1" >"$dir/log" 2>&1 ||
        die "cannot download $1: $(tail -n 2 "$dir/log")"
    for deb in "$dir"/cache/archives/*.deb; do
        dpkg-deb -x "$deb" "$cache/tools"
        rm "$deb"
    done
    : >"$cache/tools/.$1"
}

# find_busybox: sets $busybox to a static one.
find_busybox() {
    busybox=/bin/busybox
    dpkg-query -W busybox-static >/dev/null 2>&1 && return 0
    unpack_tool busybox-static
    busybox=$(find "$cache/tools" -type f -perm -100 -name busybox | head -n 1)
    [[ -x $busybox ]] || die "no busybox in busybox-static"
}

# find_userland: sets $guest_busybox, and $userland to the folder with the programs of the emulated machine; empty where these
# are this machine's own.
find_userland() {
    userland='' guest_busybox=$busybox
    [[ $architecture != amd64 ]] || return 0
    userland=$cache/userland
    unpack_packages "$userland" busybox-static iproute2 nftables
    guest_busybox=$(guest_tool busybox)
}

# guest_tool NAME: prints the path of a program for the emulated machine.
guest_tool() {
    local path
    if [[ -z $userland ]]; then
        command -v "$1"
        return
    fi
    # Not a link: an absolute one would lead to this machine's own program.
    path=$(find "$userland" -path "*bin/$1" -type f -print -quit)
    [[ -n $path ]] || die "no $1 for $architecture in $userland"
    echo "$path"
}

# major COMMAND...: prints the first number of its version, 0 if there is no such program.
major() {
    "$@" --version 2>/dev/null | sed -nE '1s/.*version ([0-9]+).*/\1/p' | grep . || echo 0
}

# find_qemu ARCHITECTURE PACKAGE: sets $qemu, the command with what it needs to run from where it is, and $accelerator.
#
# Emulated processors that run side by side crash the guest in qemu 7.2: one may run what another has just patched, and
# attaching a BPF program or a kprobe under traffic patches the kernel (oopses within seconds, on old kernels and new).
# They do not in 10.0, nor in 7.2 when the processors take turns.
find_qemu() {
    local name="qemu-system-$1" tools="$cache/tools"
    accelerator=tcg
    qemu=("$name")
    (($(major "${qemu[@]}") < 10)) || return 0
    unpack_tool "$2"
    qemu=(env "LD_LIBRARY_PATH=$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu" "$tools/usr/bin/$name")
    (($(major "${qemu[@]}") >= 10)) || accelerator=tcg,thread=single
    qemu+=(-L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios")
}
