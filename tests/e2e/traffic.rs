//! Applications that count what they send and receive: the oracle of the exactness tests.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::AddAssign;
use std::thread;

use crate::exposition::Exposition;

/// Bytes as the applications counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) client_sent: u64,
    pub(crate) client_received: u64,
    pub(crate) server_sent: u64,
    pub(crate) server_received: u64,
}

impl Counted {
    /// flowtap's counts of the connections to `port`.
    pub(crate) fn of_port(seen: &Exposition, port: u16) -> Self {
        Self::with_labels(seen, port, &[])
    }

    /// The same of the network namespace whose label is `netns`, from a daemon with
    /// [`FLOWS_BY_NETNS`](crate::netns::FLOWS_BY_NETNS).
    pub(crate) fn of_port_in(seen: &Exposition, port: u16, netns: &str) -> Self {
        Self::with_labels(seen, port, &[("netns", netns)])
    }

    fn with_labels(seen: &Exposition, port: u16, more: &[(&str, &str)]) -> Self {
        let port = port.to_string();
        let sum = |family, of_port, direction| {
            let mut labels = vec![(of_port, &*port), ("direction", direction)];
            labels.extend(more);
            seen.sum(family, &labels)
        };
        let egress = |direction| sum("primus_lens_network_tcp_flow_egress", "rport", direction);
        let ingress = |direction| sum("primus_lens_network_tcp_flow_ingress", "lport", direction);
        Self {
            client_sent: egress("outbound"),
            client_received: egress("inbound"),
            server_sent: ingress("outbound"),
            server_received: ingress("inbound"),
        }
    }
}

impl Counted {
    /// Bytes that both ends sent, and bytes that both received.
    pub(crate) const fn ways(self) -> [u64; 2] {
        [
            self.client_sent + self.server_sent,
            self.client_received + self.server_received,
        ]
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.client_sent += other.client_sent;
        self.client_received += other.client_received;
        self.server_sent += other.server_sent;
        self.server_received += other.server_received;
    }
}

const CLIENTS: usize = 8;

/// Opens `connections` connections to a server at `address` (port 0 for any), some at a time. Each side sends a random
/// number of bytes, shuts down its sending half, and reads to the end.
pub(crate) fn exchange(listener: &TcpListener, connections: usize, seed: u64) -> io::Result<Counted> {
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let server = scope.spawn(move || serve(listener, connections, seed));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let share = connections / CLIENTS + usize::from(number < connections % CLIENTS);
                scope.spawn(move || run_client(address, share, seed.wrapping_add(1 + number as u64)))
            })
            .collect();
        let mut counted = Counted::default();
        for client in clients {
            let (sent, received) = client.join().expect("client panicked")?;
            counted.client_sent += sent;
            counted.client_received += received;
        }
        let (sent, received) = server.join().expect("server panicked")?;
        counted.server_sent += sent;
        counted.server_received += received;
        Ok(counted)
    })
}

/// Sends `bytes` to each of 127.7.0.1 to 127.7.0.`peers`, on a connection each that is closed then. Returns how many bytes the
/// server got.
pub(crate) fn to_peers(listener: &TcpListener, peers: u8, bytes: usize) -> io::Result<u64> {
    let port = listener.local_addr()?.port();
    let message = vec![b'p'; bytes];
    let mut got = 0;
    for peer in 1..=peers {
        let mut client = TcpStream::connect((Ipv4Addr::new(127, 7, 0, peer), port))?;
        let (mut server, _) = listener.accept()?;
        client.write_all(&message)?;
        client.shutdown(Shutdown::Write)?;
        got += io::copy(&mut server, &mut io::sink())?;
    }
    Ok(got)
}

/// Opens `connections` short connections, one after the other on each client thread: a few bytes each way, and closed.
/// As fast as it goes.
pub(crate) fn churn(listener: &TcpListener, connections: usize, bytes: usize) -> io::Result<Counted> {
    const THREADS: usize = 4;
    let address = listener.local_addr()?;
    let share = connections / THREADS;
    let (request, answer) = (vec![b'q'; bytes], vec![b'a'; 2 * bytes]);
    thread::scope(|scope| -> io::Result<()> {
        let workers: Vec<_> = (0..2 * THREADS)
            .map(|number| {
                let (request, answer) = (&request, &answer);
                scope.spawn(move || -> io::Result<()> {
                    let mut buffer = vec![0; answer.len()];
                    for _ in 0..share {
                        if number % 2 == 0 {
                            let mut stream = TcpStream::connect(address)?;
                            stream.write_all(request)?;
                            stream.read_exact(&mut buffer)?;
                        } else {
                            let (mut stream, _) = listener.accept()?;
                            stream.read_exact(&mut buffer[..bytes])?;
                            stream.write_all(answer)?;
                            // The client closes first; to its end, so that nobody resets.
                            io::copy(&mut stream, &mut io::sink())?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("a worker panicked")?;
        }
        Ok(())
    })?;
    let (request, answer) = ((connections * bytes) as u64, (connections * 2 * bytes) as u64);
    Ok(Counted {
        client_sent: request,
        client_received: answer,
        server_sent: answer,
        server_received: request,
    })
}

fn run_client(address: SocketAddr, connections: usize, seed: u64) -> io::Result<(u64, u64)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sums = (0, 0);
    for _ in 0..connections {
        let size = random_size(&mut random);
        let (sent, received) = converse(&TcpStream::connect(address)?, size)?;
        sums = (sums.0 + sent, sums.1 + received);
    }
    Ok(sums)
}

fn serve(listener: &TcpListener, connections: usize, seed: u64) -> io::Result<(u64, u64)> {
    let mut random = fastrand::Rng::with_seed(seed);
    thread::scope(|scope| {
        let mut conversations = Vec::new();
        for _ in 0..connections {
            let (stream, _) = listener.accept()?;
            let size = random_size(&mut random);
            conversations.push(scope.spawn(move || converse(&stream, size)));
        }
        let mut sums = (0, 0);
        for conversation in conversations {
            let (sent, received) = conversation.join().expect("server's side panicked")?;
            sums = (sums.0 + sent, sums.1 + received);
        }
        Ok(sums)
    })
}

/// Mostly small, now and then large enough for many segments, sometimes zero.
fn random_size(random: &mut fastrand::Rng) -> usize {
    if random.u8(..) < 8 {
        random.usize(..300_000)
    } else {
        random.usize(..4_000)
    }
}

/// Sends `size` bytes, shuts down, reads to the end. Sending and reading go on at once, or two large messages would wait
/// for each other for ever.
fn converse(stream: &TcpStream, size: usize) -> io::Result<(u64, u64)> {
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> io::Result<u64> {
            (&*stream).write_all(&vec![b'x'; size])?;
            stream.shutdown(Shutdown::Write)?;
            Ok(size as u64)
        });
        let received = io::copy(&mut &*stream, &mut io::sink())?;
        Ok((writer.join().expect("writer panicked")?, received))
    })
}

/// Connections that stay open: pairs of (client's end, server's end).
#[derive(Debug)]
pub(crate) struct Held(Vec<(TcpStream, TcpStream)>);

impl Held {
    /// Opens `connections` connections to `listener`.
    pub(crate) fn open(listener: &TcpListener, connections: usize) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let open = || Ok((TcpStream::connect(address)?, listener.accept()?.0));
        (0..connections)
            .map(|_| open())
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Shuts down the clients' ends.
    pub(crate) fn shutdown(&mut self, how: Shutdown) {
        for (client, _) in &mut self.0 {
            // A connection that has ended by itself is also shut down.
            let _ = client.shutdown(how);
        }
    }

    /// Sends `size` bytes each way on every connection, and reads them.
    pub(crate) fn exchange(&mut self, size: usize) -> io::Result<Counted> {
        let mut counted = Counted::default();
        let (message, mut buffer) = (vec![b'y'; size], vec![0; size]);
        for (client, server) in &mut self.0 {
            client.write_all(&message)?;
            server.read_exact(&mut buffer)?;
            server.write_all(&message)?;
            client.read_exact(&mut buffer)?;
            let size = size as u64;
            counted += Counted {
                client_sent: size,
                client_received: size,
                server_sent: size,
                server_received: size,
            };
        }
        Ok(counted)
    }
}
