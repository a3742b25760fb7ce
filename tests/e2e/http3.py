"""An HTTP/3 server or client of aioquic, which counts its datagrams and their payload bytes by itself.

`http3.py server CERTIFICATE KEY` prints its port, serves `/N` with N bytes until its standard input ends, then prints its counts.
`http3.py client PORT PATH...` fetches each path on one connection, then prints its counts. Counts are JSON, of the UDP sockets.
"""

import asyncio
import json
import socket
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Counts:
    """Datagrams and bytes of this process."""

    def __init__(self):
        self.sent = [0, 0]
        self.received = [0, 0]

    def wrap(self, transport):
        """Counts what is sent through an asyncio transport."""
        send = transport.sendto

        def sendto(data, addr=None):
            self.sent[0] += 1
            self.sent[1] += len(data)
            send(data, addr)

        transport.sendto = sendto

    def take(self, data):
        """Counts a datagram that was received."""
        self.received[0] += 1
        self.received[1] += len(data)

    def print(self, **more):
        """Prints them as one line."""
        print(json.dumps({"sent": self.sent, "received": self.received, **more}), flush=True)


class Server(QuicConnectionProtocol):
    """A connection of the server."""

    http = None

    def quic_event_received(self, event):
        if self.http is None:
            self.http = H3Connection(self._quic)
        for request in self.http.handle_event(event):
            if isinstance(request, HeadersReceived):
                path = dict(request.headers)[b":path"]
                self.http.send_headers(request.stream_id, [(b":status", b"200")])
                self.http.send_data(request.stream_id, b"x" * int(path[1:]), end_stream=True)
                self.transmit()


class Client(QuicConnectionProtocol):
    """The connection of a client."""

    http = None
    body = 0
    ended = None

    def quic_event_received(self, event):
        if self.http is None:
            self.http = H3Connection(self._quic)
        for part in self.http.handle_event(event):
            if isinstance(part, DataReceived):
                self.body += len(part.data)
            if getattr(part, "stream_ended", False):
                self.ended.set_result(None)

    async def get(self, path):
        """Fetches one path; the body's length is added to `body`."""
        self.ended = asyncio.get_running_loop().create_future()
        stream = self._quic.get_next_available_stream_id()
        headers = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", path)]
        if self.http is None:
            self.http = H3Connection(self._quic)
        self.http.send_headers(stream, headers, end_stream=True)
        self.transmit()
        await self.ended


async def run_server(certificate, key):
    """Serves until the standard input ends."""
    counts = Counts()
    config = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False)
    config.load_cert_chain(certificate, key)
    server = await serve("127.0.0.1", 0, configuration=config, create_protocol=Server)
    counts.wrap(server._transport)
    take = server.datagram_received

    def received(data, addr):
        counts.take(data)
        take(data, addr)

    server.datagram_received = received
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    counts.print()


async def run_client(port, paths):
    """Fetches the paths."""
    counts = Counts()

    class Counted(Client):
        def connection_made(self, transport):
            counts.wrap(transport)
            super().connection_made(transport)

        def datagram_received(self, data, addr):
            counts.take(data)
            super().datagram_received(data, addr)

    config = QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)
    async with connect("127.0.0.1", port, configuration=config, create_protocol=Counted) as client:
        for path in paths:
            await client.get(path.encode())
        body = client.body
    counts.print(body=body)


if __name__ == "__main__":
    socket.setdefaulttimeout(60)
    if sys.argv[1] == "server":
        asyncio.run(run_server(*sys.argv[2:4]))
    else:
        asyncio.run(run_client(int(sys.argv[2]), sys.argv[3:]))
