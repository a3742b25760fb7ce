"""Starts flowtap as systemd or a container runtime would: user, capabilities, no_new_privs, root folder, system calls."""

import ctypes
import os
import re
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request

libc = ctypes.CDLL(None, use_errno=True)

# linux/prctl.h, linux/capability.h, linux/mount.h, sched.h
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 24, 38, 47, 2
CAPABILITIES = {"CAP_PERFMON": 38, "CAP_BPF": 39}
CAPABILITY_VERSION_3 = 0x20080522
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
# seccomp.h
SCMP_ACT_ALLOW, SCMP_ACT_EPERM = 0x7FFF0000, 0x00050000 | 1

UID = 65532
PATIENCE = 30


def call(function, *arguments):
    if function(*arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function.__name__}{arguments}: {os.strerror(error)}")


def prctl(*arguments):
    call(libc.prctl, *[ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5]])


def mount(source, target, flags):
    call(libc.mount, str(source).encode(), str(target).encode(), None, ctypes.c_ulong(flags), None)


def filter_of(unit):
    """The system calls that the unit's SystemCallFilter= lines leave, in systemd's order of things."""
    def expand(word):
        if not word.startswith("@"):
            return {word}
        shown = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
        lines = [line.strip() for line in shown.stdout.splitlines()[1:]]
        words = [line for line in lines if line and not line.startswith("#")]
        return set().union(*(expand(word) for word in words))

    # systemd adds these to every allow list.
    allowed = expand("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        calls = set().union(*(expand(word) for word in line.lstrip("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def load_filter(allowed):
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(SCMP_ACT_EPERM)))
    for name in allowed:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        # Negative: not of this architecture.
        if number >= 0:
            seccomp.seccomp_rule_add(context, ctypes.c_uint32(SCMP_ACT_ALLOW), number, 0)
    if seccomp.seccomp_load(context):
        raise OSError("seccomp_load")


def set_capabilities(names, ambient):
    """Permitted and effective; with `ambient` also inheritable and ambient. For the thread, which is to become another program."""
    mask = sum(1 << CAPABILITIES[name] for name in names)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    inheritable = (low, high) if ambient else (0, 0)
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    data = struct.pack("6I", low, low, inheritable[0], high, high, inheritable[1])
    call(libc.capset, header, data)
    if ambient:
        for name in names:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAPABILITIES[name])


def confine(capabilities, ambient, root, calls, held=True, no_new_privs=True):
    """To be run between fork and exec. Without `held` the capabilities are in the bounding set alone, for those of a file."""
    if root:
        call(libc.unshare, CLONE_NEWNS)
        mount("none", "/", MS_REC | MS_PRIVATE)
        for source, target in (("/proc", "proc"), ("/proc", "host-proc"), ("/sys", "sys"), ("/sys/fs/cgroup", "host-cgroup")):
            os.makedirs(root / target, exist_ok=True)
            mount(source, root / target, MS_BIND | MS_REC)
        for target in ("host-proc", "sys", "host-cgroup"):
            mount("none", root / target, MS_REMOUNT | MS_BIND | MS_RDONLY)
        mount(root, root, MS_BIND | MS_REC)
        mount("none", root, MS_REMOUNT | MS_BIND | MS_RDONLY)
        os.chroot(root)
        os.chdir("/")
    for number in range(41):
        if number not in [CAPABILITIES[name] for name in capabilities]:
            prctl(PR_CAPBSET_DROP, number)
    prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    set_capabilities(capabilities if held else [], ambient)
    if no_new_privs:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    if calls is not None:
        load_filter(calls)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def exchange(size):
    """A connection that moves so many bytes each way; returns the server's port, which is still open with the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        for sender, receiver in ((client, accepted), (accepted, client)):
            sender.sendall(b"x" * size)
            while size > len(receiver.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL)):
                pass
            receiver.recv(size, socket.MSG_WAITALL)
        port = server.getsockname()[1]
        client.close()
        accepted.close()
    return port


class Flowtap:
    """A confined `flowtap run` on free ports; a context manager."""

    def __init__(self, command, **how):
        self.metrics, self.telemetry, self.admin = free_port(), free_port(), free_port()
        settings = {
            "exporters.prometheus.endpoint": self.metrics,
            "service.telemetry.metrics.endpoint": self.telemetry,
            "service.admin.endpoint": self.admin,
        }
        command = [*command, *(f"--set={key}=127.0.0.1:{port}" for key, port in settings.items())]
        self.child = subprocess.Popen(
            command,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin"},
            preexec_fn=lambda: confine(**how),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            self.child.communicate(timeout=PATIENCE)

    def ready(self):
        """Whether it came to measure; otherwise its log and exit code are in `log` and `code`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                self.log, self.code = self.child.communicate()[0], self.child.returncode
                return False
            try:
                get(self.admin, "/readyz")
                return True
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError("neither ready nor ended")

    def counts(self, port, size):
        """Whether /metrics comes to show these bytes, both ways, of a connection to this port."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            shown = get(self.metrics, "/metrics")
            series = re.findall(rf'tcp_flow_egress\{{[^}}]*rport="{port}"[^}}]*\}} (\d+)', shown)
            if sorted(series) == [str(size)] * 2:
                return True
            time.sleep(0.5)
        return False
