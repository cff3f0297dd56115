# shellcheck shell=bash
# For tests/lab/prepare: Debian's kernel packages, fetched without root and without a change to the machine, and the
# modules that Debian leaves out (siw) or builds without SMB Direct (cifs, ksmbd), built from Debian's kernel source.
# Uses $work (a directory that goes away) and $wanted (SMBDIRECT_LAB_KERNEL).
# shellcheck disable=SC2154

# ---- apt, with lists of its own

# The suites are those of the machine's own sources, whatever their format, and those that are wanted beside them, looked
# for at the same addresses. apt itself reads the sources: only it knows all that can be said in them.
apt_begin() {
    local parts suite suites=()
    command -v apt-get >/dev/null || skip "the lab is made out of Debian's packages, and there is no apt here"
    mkdir -p "$work"/{lists,cache,deb}/partial "$work/sources"
    # Under a user of its own, as it likes to, apt could not write into our directory.
    apt_options=(-qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get "${apt_options[@]}" update || skip "apt-get update failed (its words are above)"

    # Debian 12 has a Linux 6.1 and a ksmbd-tools that are too old.
    native_suite=$codename kernel_suite=''
    [ "$codename" != bookworm ] || native_suite=bookworm-backports
    case $wanted in
        */*) ;;
        *:*) kernel_suite=${wanted%%:*} ;;
        [a-z]*) kernel_suite=$wanted ;;
        '') [ "$native_suite" = "$codename" ] || kernel_suite=$native_suite ;;
    esac
    for suite in "$native_suite" "$kernel_suite" "${kernel_suite%-backports}"; do
        case " ${suites[*]} " in *" $suite "*) continue ;; esac
        [ -z "$suite" ] || apt_has_suite "$suite" || suites+=("$suite")
    done
    [ ${#suites[@]} -gt 0 ] || return 0
    eval "$(apt-config shell parts Dir::Etc::SourceParts/d)"
    cp -L "$parts"/*.{list,sources} "$work/sources/" 2>/dev/null || :
    extra_sources "${suites[@]}" >"$work/sources/smbdirect-lab.list"
    apt_options+=(-o "Dir::Etc::SourceParts=$work/sources")
    apt-get "${apt_options[@]}" update || :  # one address of several may lack one suite of several
    for suite in "${suites[@]}"; do
        compgen -G "$work/lists/*_dists_${suite}_main_*Packages*" >/dev/null || skip "the suite $suite is not found where the machine's apt sources point"
    done
}
# What apt would fetch or has fetched: suite, codename, component, address, file that says so.
apt_targets() {
    # shellcheck disable=SC2016  # the variables are apt's
    apt-get "${apt_options[@]}" indextargets --format \
        '$(RELEASE) $(CODENAME) $(COMPONENT) $(REPO_URI) $(SOURCESENTRY)' 'Created-By: Packages'
}
apt_has_suite() {  # SUITE
    apt_targets | awk -v suite="$1" '($1 == suite || $2 == suite) && $3 == "main" { found = 1 } END { exit !found }'
}
# The suites at each address that serves this system's own.
extra_sources() {  # SUITE...
    local address file suite
    apt_targets | awk -v own="$codename" '$2 == own && $3 == "main" && !seen[$4]++ { print $4, $5 }' |
        while read -r address file; do
            for suite in "${@}"; do printf 'deb %s%s %s main\n' "$(source_options "${file%:*}")" "$address" "$suite"; done
        done
}
# What a sources file says about trust, which apt does not tell, as options of a one-line source.
source_options() {  # FILE
    local keys options=()
    keys=$(grep -hoiE '(^Signed-By: *|signed-by=)/[^] ]+' "$1" | sed 's/^[^/]*//' | sort -u | paste -sd,)
    [ -z "$keys" ] || options+=("signed-by=$keys")
    ! grep -qiE '(^Trusted: *|trusted=)yes' "$1" || options+=(trusted=yes)
    ! grep -qiE '(^Check-Valid-Until: *|check-valid-until=)no' "$1" || options+=(check-valid-until=no)
    [ ${#options[@]} = 0 ] || printf '[%s] ' "${options[*]}"
}

fetch() {  # PACKAGE[=VERSION|/SUITE]...
    (cd "$work/deb" && apt-get "${apt_options[@]}" ${kernel_suite:+-t "$kernel_suite"} download "$@")
}
unpack() {  # DIRECTORY PACKAGE...
    local directory=$1 package
    shift
    mkdir -p "$directory"
    for package; do dpkg -x "$work/deb/$package"_*.deb "$directory"; done
}
field() {  # PACKAGE FIELD
    apt-cache "${apt_options[@]}" ${kernel_suite:+-o "APT::Default-Release=$kernel_suite"} show --no-all-versions "$1" | awk -v field="$2: " 'index($0, field) == 1 && !found++ { print substr($0, length(field) + 1) }'
}
# The packages that one depends on and that belong to the same kernel.
kernel_packages() {  # PACKAGE PATTERN
    field "$1" Depends | sed 's/[,|]/\n/g' | awk '{ print $1 }' | grep -E "$2" || :
}

# ---- which one

# The release (uname -r) of what SMBDIRECT_LAB_KERNEL means.
choose_kernel() {
    local version=''
    case $wanted in
        *:*) version=${wanted#*:} ;;
        [0-9]*) version=$wanted ;;
    esac
    if [ -z "$version" ]; then
        kernel_packages linux-image-amd64 '^linux-image-[0-9]' | sed 's/^linux-image-//' | grep . ||
            skip "the machine's apt sources have no kernel"
        return
    fi
    apt-cache "${apt_options[@]}" pkgnames linux-image- | sed -n 's/^linux-image-//p' |
        awk -v version="${version%-amd64}" 'index($0, version) == 1' | grep -E '^[^-]+-amd64$' | sort -V | tail -n 1 | grep . ||
        skip "no package linux-image-$version*-amd64 can be had from the machine's apt sources"
}

# ---- from packages

kernel_from_packages() {  # RELEASE MADE
    local release=$1 made=$2 tree=$work/tree version source packages=()
    mapfile -t packages < <(
        echo "linux-image-$release"
        kernel_packages "linux-image-$release" "^linux-(base|binary|modules)-${release//+/.}$"
        echo "linux-headers-$release"
        kernel_packages "linux-headers-$release" '^linux-(headers|kbuild)-'
    )
    version=$(field "linux-headers-$release" Version)
    source=linux-source-$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
    say "fetching Debian's packages of it, 250 MB or so"
    fetch "${packages[@]}" || skip "apt could not fetch the kernel (its words are above)"
    fetch "$source=$version" 2>/dev/null || fetch "$source" || skip "apt could not fetch $source"
    unpack "$tree" "${packages[@]}"
    install_kernel "$tree" "$release" "$made"
    say "building siw, cifs and ksmbd"
    build_modules "$tree" "$release" "$source" "$made/config" "$made/guest/lib/modules/$release"
    depmod -b "$made/guest" "$release"
}

# The kernel and those modules of it that a guest without hardware can use.
install_kernel() {  # TREE RELEASE MADE
    local tree=$1 release=$2 made=$3 modules file
    modules=$(find "$tree" -path "*/lib/modules/$release" -type d -print -quit)
    # Since Linux 7 they lie beside the modules.
    for file in vmlinuz config; do
        if [ -e "$tree/boot/$file-$release" ]; then cp "$tree/boot/$file-$release" "$made/$file"; else cp "$modules/$file" "$made/$file"; fi
    done
    mkdir -p "$made/guest/lib/modules"
    cp -r "$modules" "$made/guest/lib/modules/$release"
    # Some versions of kmod look below usr.
    ln -s . "$made/guest/usr"
    modules=$made/guest/lib/modules/$release
    rm -rf "$modules/kernel/sound" "$modules"/{build,source,vmlinuz,System.map,config}
    find "$modules/kernel/drivers" -mindepth 1 -maxdepth 1 -type d |
        grep -vE '/(block|char|crypto|infiniband|net|nvme|target|vhost|virtio)$' | xargs -r rm -rf
    find "$modules/kernel/drivers/net" -mindepth 1 -maxdepth 1 -type d | grep -vE '/(bonding|ipvlan|macvlan)$' | xargs -r rm -rf
}

# ---- building

build_modules() {  # TREE RELEASE SOURCE CONFIG MODULES
    local tree=$1 release=$2 source=$3 config=$4 modules=$5 headers kbuild src module
    headers=$tree/usr/src/linux-headers-$release
    kbuild=$(echo "$tree"/usr/lib/linux-kbuild-*)
    src=$work/src
    mkdir -p "$src"
    dpkg --fsys-tarfile "$work/deb/$source"_*.deb | tar -xO "./usr/src/$source.tar.xz" |
        tar -C "$src" --strip-components=1 -xJ "$source"/{fs/smb,fs/nls,include,drivers/infiniband/sw,scripts/asn1_compiler.c,tools/include}
    # The headers are made to lie under /usr.
    sed -i "s#\(^\|[ =]\)/usr/src/#\1$tree/usr/src/#" "$headers/Makefile"
    rm -f "$kbuild/scripts/asn1_compiler"
    gcc -O2 -w -I"$src/include" -I"$src/tools/include" -o "$kbuild/scripts/asn1_compiler" "$src/scripts/asn1_compiler.c"
    run_foreign_tools "$kbuild"
    choose_compiler "$headers"

    grep -q '^CONFIG_RDMA_RXE=' "$config" ||
        build_in_tree "$headers" "$src/drivers/infiniband/sw/rxe" CONFIG_RDMA_RXE=m
    grep -q '^CONFIG_RDMA_SIW=' "$config" ||
        build_in_tree "$headers" "$src/drivers/infiniband/sw/siw" CONFIG_RDMA_SIW=m
    dawdling_siw "$headers" "$src/drivers/infiniband/sw/siw" "${modules%/lib/modules/*}/dawdling"
    # The third is a module of its own since Linux 7; what does not know it does not mind.
    build_in_tree "$headers" "$src/fs/smb" CONFIG_CIFS=m CONFIG_CIFS_SMB_DIRECT=y CONFIG_SMB_SERVER=m \
        CONFIG_SMB_SERVER_SMBDIRECT=y CONFIG_SMBDIRECT=m CONFIG_SMBFS=m \
        KCFLAGS="-DCONFIG_CIFS_SMB_DIRECT=1 -DCONFIG_SMB_SERVER_SMBDIRECT=1 -DCONFIG_SMBDIRECT_MODULE=1"

    mkdir -p "$modules/updates"
    find "$src" -name '*.ko' | while read -r module; do
        # Ours in place of Debian's, which lack SMB Direct.
        find "$modules/kernel" -name "${module##*/}*" -delete
        strip --strip-debug -o "$modules/updates/${module##*/}" "$module"
    done
}
# A siw that pauses where it is deaf to its peer, for cases/first-message.
dawdling_siw() {  # HEADERS SOURCE DIRECTORY
    cp -r "$2" "$work/dawdling"
    sed -i -e 's/^\tif (wait_for_peer_rts) {/\tmsleep(40);\n&/' -e '1i #include <linux/delay.h>' "$work/dawdling/siw_cm.c"
    grep -q 'msleep(40);' "$work/dawdling/siw_cm.c" || return 0
    build_in_tree "$1" "$work/dawdling" CONFIG_RDMA_SIW=m
    mkdir -p "$3"
    strip --strip-debug -o "$3/siw.ko" "$work/dawdling/siw.ko"
}
build_in_tree() {  # HEADERS DIRECTORY MAKE-ARGUMENT...
    local headers=$1 directory=$2
    shift 2
    make -s -j"$(nproc)" -C "$headers" M="$directory" "${compiler[@]}" CONFIG_DEBUG_INFO_BTF_MODULES= "$@" modules >"$work/build.log" 2>&1 || {
        tail -n 20 "$work/build.log"
        die "the modules of ${directory#"$work"/src/} could not be built"
    }
}

# Debian's kernels want the very compiler that they were built with. Where there is an older one alone, it does as well,
# but for options that came later. Sets compiler, for make.
choose_compiler() {  # HEADERS
    local version
    compiler=()
    version=$(grep -oE 'gcc-[0-9]+$' "$1/.kernelvariables" || :)
    if [ -z "$version" ] || command -v "x86_64-linux-gnu-$version" >/dev/null; then return; fi
    cat >"$work/cc" <<'END'
#!/bin/bash
options=()
for option; do
    case $option in
        -fmin-function-alignment=*) options+=("-falign-functions=${option#*=}") ;;  # GCC 14
        -fstrict-flex-arrays=*) ;;                                                  # GCC 13
        *) options+=("$option") ;;
    esac
done
exec gcc "${options[@]}"
END
    chmod 755 "$work/cc"
    compiler=("CC=$work/cc")
}

# The build tools of a kernel for a newer system want a newer libc: they run with that system's own, if need be.
run_foreign_tools() {  # KBUILD
    local tool loader libraries=$work/libraries packages=(libc6 libelf1t64 zlib1g libzstd1 libssl3t64)
    find "$1" -type f -perm -u+x | while read -r tool; do
        [[ $(head -c 4 "$tool" | tail -c 3) = ELF && $(ldd "$tool" 2>&1) = *'not found'* ]] || continue
        if [ ! -d "$libraries" ]; then
            fetch "${packages[@]/%//${kernel_suite%-backports}}" || die "the libraries of the kernel's build tools cannot be fetched"
            unpack "$libraries" "${packages[@]}"
        fi
        loader=$(find "$libraries" -name 'ld-linux-x86-64.so.2' -print -quit)
        mv "$tool" "$tool.foreign"
        printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' "$loader" \
            "$libraries/usr/lib/x86_64-linux-gnu:$libraries/lib/x86_64-linux-gnu" "$tool.foreign" >"$tool"
        chmod 755 "$tool"
    done
}

# ---- and otherwise

# A directory made by hand: vmlinuz and lib/modules/RELEASE, perhaps config.
kernel_by_hand() {  # DIRECTORY MADE
    local release
    [ -f "$1/vmlinuz" ] || die "$1 has no vmlinuz"
    release=$(cd "$1/lib/modules" && echo *)
    [ -d "$1/lib/modules/$release" ] || die "$1/lib/modules must hold the modules of one kernel, and holds: $release"
    cp -L "$1/vmlinuz" "$2/vmlinuz"
    mkdir -p "$2/guest/lib"
    cp -r "$1/lib/modules" "$2/guest/lib/"
    rm -f "$2/guest/lib/modules/$release"/{build,source}
    ln -s . "$2/guest/usr"
    depmod -b "$2/guest" "$release"
    echo "$release"
}

# ksmbd's user-space part. Its package cannot be installed beside samba, which has commands of the same names.
ksmbd_tools() {  # DIRECTORY
    local file
    fetch "ksmbd-tools/$native_suite" || die "the package ksmbd-tools cannot be fetched"
    unpack "$work/ksmbd" ksmbd-tools
    file=$(find "$work/ksmbd" -name ksmbd.tools -type f)
    mkdir -p "$1"
    cp "$file" "$1/ksmbd.tools"
    ! ldd "$1/ksmbd.tools" | grep 'not found' || die "ksmbd-tools needs libraries that are missing here"
}
