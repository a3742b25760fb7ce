# shellcheck shell=bash disable=SC2154
# Packs the initramfs that a kernel of the matrix boots into: busybox, iproute2, nft, the modules, flowtap, the scripts.
#
# Needs $cache, $here, $busybox, what find_userland() sets, and die(); takes $more_modules. The archive is not compressed:
# unpacking is what an emulated processor is slowest at.

# Loadable modules that the checks may want, with what they depend on. One that a kernel has built in is passed over.
readonly modules='sch_netem sch_tbf sch_htb sch_ingress cls_matchall act_gact act_police veth dummy inet_diag tcp_diag unix_diag
    act_nat ip_vs ip_vs_rr nf_tables nft_compat nft_limit nft_numgen nft_counter nft_ct nft_meta_bridge nf_conntrack nf_nat
    nft_chain_nat nft_nat nft_masq'

# copy_program PATH DESTINATION: copies a program, and if it is dynamic the libraries it needs.
copy_program() {
    local library
    install -D -m 755 "$1" "$stage/$2"
    if [[ -n $userland ]]; then
        copy_foreign_libraries "$1"
        return
    fi
    { ldd "$1" 2>/dev/null || true; } | sed -nE 's,^[^/]*(/[^ ]+).*,\1,p' | while read -r library; do
        [[ -e $stage/$library ]] || install -D -m 755 "$(readlink -f "$library")" "$stage/$library"
    done
}

# copy_foreign_libraries PROGRAM: copies the loader and the libraries that it needs, and those that these need, from
# $userland to /lib. ldd can't find them: it runs the program.
copy_foreign_libraries() {
    local name library
    readelf -ld "$1" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p; s/.*program interpreter: (.*)\]/\1/p' | while read -r name; do
        name=${name##*/}
        [[ ! -e $stage/lib/$name ]] || continue
        library=$(find "$userland" -name "$name" -print -quit)
        [[ -n $library ]] || die "no $name in $userland"
        install -D -m 755 "$(readlink -f "$library")" "$stage/lib/$name"
        copy_foreign_libraries "$library"
    done
}

# copy_module NAME: copies one module and its dependencies, decompressed, from $tree to $stage.
copy_module() {
    local name=${1//-/_} path to needed
    [[ -e $stage/.modules/$name ]] && return 0
    : >"$stage/.modules/$name"
    path=$(grep -E "/${name//_/[-_]}\.ko(\.[a-z0-9]+)?$" "$stage/.modules.all" | head -n 1) || return 0
    to="$stage/lib/modules/$release/${path#"$tree/"}"
    mkdir -p "${to%/*}"
    case $path in
    *.xz) to=${to%.xz} && xz -dc "$path" >"$to" ;;
    *.zst) to=${to%.zst} && zstd -dcq "$path" >"$to" ;;
    *.gz) to=${to%.gz} && gzip -dc "$path" >"$to" ;;
    *) cp "$path" "$to" ;;
    esac
    needed=$(tr '\0' '\n' <"$to" | sed -n 's/^depends=//p' | head -n 1)
    for name in ${needed//,/ }; do
        copy_module "$name"
    done
}

copy_modules() {
    local tree name
    tree=$(find "$root" -type d -path "*/modules/$release" | head -n 1)
    [[ -n $tree ]] || die "no modules for $release"
    mkdir -p "$stage/.modules"
    find "$tree" -name '*.ko*' >"$stage/.modules.all"
    for name in $modules ${more_modules:-}; do
        copy_module "$name"
    done
    find "$tree" -maxdepth 1 -name 'modules.builtin*' -exec cp {} "$stage/lib/modules/$release/" \;
    cp "$tree/modules.order" "$stage/lib/modules/$release/" 2>/dev/null || true
    rm -r "$stage/.modules" "$stage/.modules.all"
    "$busybox" depmod -b "$stage" "$release"
}

# pack_image KERNEL[:MODEL] SCRIPT: writes $cache/KERNEL[-MODEL].cpio. Also uses $binary (may be empty) and the list $extra.
pack_image() {
    local stage="$cache/stage" root="$cache/kernels/${1%:*}/root" release file tool
    release=$(<"$cache/kernels/${1%:*}/release")
    rm -rf "$stage"
    mkdir -p "$stage"/{bin,boot,checks,dev,etc,proc,root,run,sbin,sys,tmp,usr/bin,usr/sbin,usr/local/bin}
    cp "$guest_busybox" "$stage/bin/busybox"
    ln -s busybox "$stage/bin/sh"
    for tool in ip tc ss nft; do
        copy_program "$(guest_tool $tool)" "usr/local/bin/$tool"
    done
    for tool in traffic resets misses owners limits drops translation inspect datagrams; do
        copy_program "$cache/$tool" "usr/local/bin/$tool"
    done
    [[ -z $binary ]] || copy_program "$binary" usr/local/bin/flowtap
    copy_modules
    find "$root" -type f \( -name "config-$release" -o -path "*/modules/$release/config" \) -exec cp {} "$stage/boot/config-$release" \;
    install -m 755 "$here/init" "$stage/init"
    cp "$here"/*.sh "$stage/checks/"
    cp "$2" "$stage/checks/script"
    for file in "${extra[@]}"; do
        cp "$file" "$stage/checks/"
    done
    # flowtap takes name servers from it.
    : >"$stage/etc/resolv.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$stage/etc/hosts"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$stage/etc/passwd"
    echo 'nobody:x:65534:65534:nobody:/:/bin/false' >>"$stage/etc/passwd"
    (cd "$stage" && find . | "$busybox" cpio -o -H newc) >"$cache/${1/:/-}.cpio" 2>/dev/null
    rm -rf "$stage"
}
