# shellcheck shell=bash
# For the tests in the lab, part of lib.sh: the SMB Direct peers in the kernel, ksmbd as server and cifs.ko as client.

ksmbd_command() {  # mountd|adduser|control ARGUMENT...
    # One program that is told by its name what to be.
    ln -sf "$LAB_KERNEL/ksmbd-tools/ksmbd.tools" "$dir/ksmbd.$1"
    "$dir/ksmbd.$1" "${@:2}"
}

# ksmbd with a share: $dir/kshare as //$server_address/kshare, for user lab with password lab. It serves the RDMA devices
# that there are when it starts. The arguments are lines of [global]. TCP port 445, RDMA port rdma_port_of 445.
# ksmbd refuses a connection when it finds no large piece of memory in one (-ENOMEM from its pool of MRs), and never ends
# after that. The page cache of 9p breaks memory into small ones.
make_room() { echo 3 >/proc/sys/vm/drop_caches && echo 1 >/proc/sys/vm/compact_memory; }
ksmbd_serve() {  # [LINE...]
    local line
    need_module ksmbd
    [ -x "$LAB_KERNEL/ksmbd-tools/ksmbd.tools" ] || skip "ksmbd-tools was not prepared"
    mkdir -p "$dir/kshare" "$dir/ksmbd"
    rm -f /run/ksmbd.lock  # of a server before, whose process number may be somebody else's by now
    make_room
    {
        printf '[global]\n    server min protocol = SMB3_00\n    interfaces = %s\n    bind interfaces only = yes\n' "$share_interfaces"
        for line; do printf '    %s\n' "$line"; done
        printf '[kshare]\n    path = %s\n    read only = no\n    force user = root\n' "$dir/kshare"
    } >"$dir/ksmbd/ksmbd.conf"
    ksmbd_command adduser -a -p lab -P "$dir/ksmbd/ksmbdpwd.db" -C "$dir/ksmbd/ksmbd.conf" lab >"$dir/ksmbd.out" 2>&1 ||
        { cat "$dir/ksmbd.out" >&2; fail "ksmbd.adduser failed"; }
    ksmbd_command mountd -P "$dir/ksmbd/ksmbdpwd.db" -C "$dir/ksmbd/ksmbd.conf" >>"$dir/ksmbd.out" 2>&1 ||
        { cat "$dir/ksmbd.out" >&2; fail "ksmbd.mountd failed"; }
    ksmbd_serves=1
    wait_until 30 port_listens 445 || fail "ksmbd does not listen on port 445"
    wait_until 30 cm_listens "$(rdma_port_of 445)" || fail "ksmbd does not listen for SMB Direct"
}
ksmbd_serves=0
ksmbd_stop() {
    [ $ksmbd_serves = 1 ] || return 0
    ksmbd_serves=0
    ksmbd_command control -s >>"$dir/ksmbd.out" 2>&1 || echo hard >/sys/class/ksmbd-control/kill_server
    wait_until 20 ksmbd_is_gone || fail "ksmbd does not stop"
}
ksmbd_is_gone() { ! port_listens 445 && ! cm_listens "$(rdma_port_of 445)"; }

# Mounts a share by SMB Direct with cifs.ko. Options come after those given here, which they can replace. It tries port
# 5445 before 445, unless port= says otherwise.
cifs_mount() {  # SHARE DIRECTORY [OPTIONS]
    need_module cifs
    mkdir -p "$2"
    # Without the helper mount.cifs, which may or may not be there.
    timeout --kill-after=5 "${limit:-60}" mount -i -t cifs \
        -o "rdma,vers=3.1.1,username=lab,password=lab,cache=none${3:+,$3}" "//$server_address/$1" "$2" ||
        { dmesg | tail -n 15 >&2; fail "cifs.ko cannot mount //$server_address/$1"; }
    cifs_mounts+=("$2")
    cp /proc/fs/cifs/DebugData "$LAB_OUT/DebugData"
    grep -q 'SMBDirect.*protocol version' "$LAB_OUT/DebugData" || fail "cifs.ko does not use SMB Direct for //$server_address/$1"
}
cifs_mounts=()
cifs_unmount() {  # DIRECTORY
    timeout --kill-after=5 "${limit:-60}" umount "$1" || fail "$1 cannot be unmounted"
}

# Whatever is still there at the end.
peers_end() {
    local place
    for place in "${cifs_mounts[@]}"; do ! mountpoint -q "$place" || timeout --kill-after=5 20 umount -fl "$place"; done
    [ $ksmbd_serves = 0 ] || { echo hard >/sys/class/ksmbd-control/kill_server; }
}
