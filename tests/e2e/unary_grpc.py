"""A gRPC server or client of grpcio, which counts its calls and takes their time by its own clock.

`unary_grpc.py server [CERTIFICATE KEY]` prints its port, answers each call after the time that its request asks for, until its
standard input ends, then prints its counts, as `client` does.
`unary_grpc.py client PORT CONNECTIONS [CERTIFICATE]` reads lines `CALLS SECONDS`. For each it makes so many calls on each of the
connections, one after the other, that ask for so much time, and prints its counts so far: a list per time asked for with the number
of calls and the seconds that they took, as JSON.
"""

import json
import sys
import time
from concurrent import futures
from pathlib import Path

import grpc

METHOD = "/flowtap.test.Echo/Call"
ANSWER = b"a" * 300

# Without it an end measures the bandwidth by PING frames, which the other end answers at once.
QUIET = [("grpc.http2.bdp_probe", 0)]


class Clock:
    """Calls and the time that they took, by the time that they asked for."""

    def __init__(self):
        self.sums = {}

    def add(self, thought, began):
        """Adds a call that began then."""
        calls, seconds = self.sums.get(thought, (0, 0.0))
        self.sums[thought] = (calls + 1, seconds + time.perf_counter() - began)

    def print(self):
        """Prints them as one line."""
        print(json.dumps(self.sums), flush=True)


class Handler(grpc.GenericRpcHandler):
    """Answers every call."""

    def __init__(self, clock):
        self.clock = clock

    def service(self, handler_call_details):
        assert handler_call_details.method == METHOD
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, _context):
        """Answers one call."""
        began = time.perf_counter()
        thought = request.decode().strip()
        if float(thought):
            time.sleep(float(thought))
        self.clock.add(thought, began)
        return ANSWER


def serve(certificate):
    """Serves until the standard input ends."""
    clock = Clock()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=QUIET)
    server.add_generic_rpc_handlers([Handler(clock)])
    if certificate:
        chain, key = (Path(path).read_bytes() for path in certificate)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None).wait()
    clock.print()


def connect(port, certificate):
    """Opens a connection. Without the pool of its own it would be that of another channel."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), *QUIET]
    if certificate:
        credentials = grpc.ssl_channel_credentials(Path(certificate).read_bytes())
        return grpc.secure_channel(f"localhost:{port}", credentials, options)
    return grpc.insecure_channel(f"127.0.0.1:{port}", options)


def call(port, connections, certificate):
    """Makes the calls that it is asked for."""
    clock = Clock()
    channels = [connect(port, certificate) for _ in range(connections)]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=60)
    methods = [channel.unary_unary(METHOD) for channel in channels]
    for line in sys.stdin:
        calls, thought = line.split()
        request = thought.rjust(100).encode()
        for method in methods * int(calls):
            began = time.perf_counter()
            answer = method(request, timeout=60)
            clock.add(thought, began)
            assert answer == ANSWER
        clock.print()
    for channel in channels:
        channel.close()


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(sys.argv[2:])
    else:
        call(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
