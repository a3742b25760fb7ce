"""A link between two network namespaces whose packets take a while, for kernels without netem.

`slow_link.py NETNS NETNS DELAY_MS LOSSY EVERY` makes a TUN device `link0` in each namespace, by its path, and prints `ready`. A packet
that enters one leaves the other DELAY_MS later. Of packets of more than 500 bytes to the IPv4 address LOSSY each EVERYth is
dropped, and counted: the count is printed when standard input ends.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import selectors
import socket
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
CLONE_NEWNET = 0x40000000


def device(netns):
    """Opens a new device in the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(netns, os.O_RDONLY)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(namespace)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"link0", IFF_TUN_NO_PI))
    return tun


def main():
    """Forwards until standard input ends."""
    # A delay of this program delays the link.
    os.nice(-15)
    delay, every = float(sys.argv[3]) / 1000, int(sys.argv[5])
    lossy = socket.inet_aton(sys.argv[4])
    ends = [device(sys.argv[1]), device(sys.argv[2])]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    events = selectors.DefaultSelector()
    for descriptor in [*ends, sys.stdin.fileno()]:
        events.register(descriptor, selectors.EVENT_READ)
    print("ready", flush=True)
    # Packets that are under way: when they leave, a number that keeps their order, where to, and what.
    waiting = []
    number = large = dropped = 0
    while True:
        timeout = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        ready = [key.fd for key, _ in events.select(timeout)]
        if sys.stdin.fileno() in ready:
            break
        now = time.monotonic()
        for end in ready:
            packet = os.read(end, 65536)
            number += 1
            if len(packet) > 500 and packet[16:20] == lossy:
                large += 1
                if large % every == 0:
                    dropped += 1
                    continue
            heapq.heappush(waiting, (now + delay, number, other[end], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            # The device may not be up yet.
            with contextlib.suppress(OSError):
                os.write(end, packet)
    print(dropped, flush=True)


main()
