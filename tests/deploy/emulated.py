"""Runs programs of another architecture in a chroot: qemu's user emulation, registered in a separate user namespace (Linux 6.7)."""

import ctypes
import os
import shutil
import subprocess

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
# The ELF header of an executable for arm64, as binfmt_misc compares it: Documentation/admin-guide/binfmt-misc.rst. F: opened now, for
# the chroot has none.
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


def emulator():
    return shutil.which("qemu-aarch64-static")


def enter(mounted):
    """Makes this process root of a user namespace, with all users, in which arm64 programs run; bind-mounts (source, target)."""
    ready, go = os.pipe(), os.pipe()
    child = os.getpid()
    # Only a process outside can map users that are not the caller's own.
    mapper = os.fork()
    if mapper == 0:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write("0 0 65536")
        os.write(go[1], b"x")
        os._exit(0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        os.kill(mapper, 9)
        raise OSError(ctypes.get_errno(), "unshare")
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os.waitpid(mapper, 0)
    # Kernels before 6.7 refuse this one in a user namespace.
    subprocess.run(["mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"], check=True)
    with open("/proc/sys/fs/binfmt_misc/register", "w") as file:
        file.write(f":flowtap-arm64:M:0:{MAGIC}:{MASK}:{emulator()}:F")
    for source, target in mounted:
        os.makedirs(target, exist_ok=True)
        subprocess.run(["mount", "--rbind", source, target], check=True)
