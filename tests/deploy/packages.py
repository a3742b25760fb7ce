"""Shared parts of the tests of the Debian and the RPM package."""

import gzip
import os
import re
import subprocess

from confined import Flowtap, exchange
from kubernetes import ROOT

CONFIG = "etc/flowtap/flowtap.yaml"
UNIT = "usr/lib/systemd/system/flowtap.service"
# Written by the package managers themselves.
OF_MANAGERS = re.compile(r"(var/lib/(dpkg|rpm)/|var/log/|var/cache/|run/|tmp/)")
# 2026-01-01, and no time at which anything was built.
EPOCH = 1767225600
# xz takes most of the time of a test.
FAST = {"FLOWTAP_PACKAGE_COMPRESSION": "fast"}
# Of every page, and of the two that describe the daemon.
SECTIONS = ("NAME", "SYNOPSIS", "DESCRIPTION")
DAEMON_SECTIONS = ("ENVIRONMENT", "EXIT STATUS", "FILES")


def make(builder, binary, package, version):
    """Has `deploy/{debian,rpm}/build` make the package."""
    subprocess.run([ROOT / builder, binary, package, version], check=True, env={**os.environ, **FAST}, stderr=subprocess.DEVNULL)
    return package


def make_twice(builder, binary, folder, suffix):
    """Has copies of the sources in two folders make it, with another umask and time zone; the packages are the same, to the byte."""
    made = []
    for number, (mask, zone) in enumerate(((0o022, "UTC"), (0o077, "Asia/Kathmandu"))):
        copy = folder / "again" / ("x" * (number * 30 + 1))
        (copy / "tmp").mkdir(parents=True)
        subprocess.run(["cp", "--recursive", *(ROOT / name for name in ("Cargo.toml", "LICENSE", "config", "deploy")), copy], check=True)
        package = copy / f"flowtap{suffix}"
        environment = {**os.environ, **FAST, "SOURCE_DATE_EPOCH": str(EPOCH), "TZ": zone, "TMPDIR": str(copy / "tmp")}
        subprocess.run([copy / builder, binary, package], check=True, env=environment, umask=mask, stderr=subprocess.DEVNULL)
        made.append(package)
    assert made[0].read_bytes() == made[1].read_bytes(), f"{made} differ"
    print("two folders make the same package, to the byte")
    return made[0]


def files(root):
    """Every file and folder that is not a package manager's."""
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {path for path in found if not OF_MANAGERS.match(path + "/")}


def check_manual(root, commands):
    """A page for each command, with the sections that man-pages(7) names."""
    folder = root / "usr/share/man/man1"
    pages = {path.name: gzip.decompress(path.read_bytes()).decode() for path in folder.glob("flowtap*.gz")}
    missing = {"flowtap.1.gz", *(f"flowtap-{command}.1.gz" for command in commands)} - set(pages)
    assert not missing, f"no page {missing}"
    for name, page in pages.items():
        wanted = SECTIONS + (DAEMON_SECTIONS if name in ("flowtap.1.gz", "flowtap-run.1.gz") else ())
        for section in wanted:
            assert re.search(rf'^\.SH "?{section}"?$', page, re.MULTILINE), f"{name}: no section {section}"
    for shell in ("bash-completion/completions/flowtap", "fish/vendor_completions.d/flowtap.fish"):
        assert "flowtap" in (root / "usr/share" / shell).read_text()
    return len(pages)


def commands_of(help_text):
    """Names of commands in the output of `flowtap --help`, `help` aside."""
    block = re.search(r"^Commands:\n(.*?)\n\n", help_text, re.MULTILINE | re.DOTALL)[1]
    return [name for name in re.findall(r"^  ([a-z][a-z-]*)", block, re.MULTILINE) if name != "help"]


def runs(root):
    """Starts what the unit starts, with the unit's user and capabilities, and counts a connection."""
    command = re.search(r"^ExecStart=(.*)$", (root / UNIT).read_text(), re.MULTILINE)[1].split()
    how = {"capabilities": ["CAP_BPF", "CAP_PERFMON"], "ambient": True, "root": root, "calls": None}
    with Flowtap([*command, "--strict"], **how) as flowtap:
        assert flowtap.ready(), flowtap.log
        assert flowtap.counts(exchange(23456), 23456), "the bytes of a connection are not in /metrics"
