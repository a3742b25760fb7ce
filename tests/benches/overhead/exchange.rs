//! A load that counts its own bytes: requests and answers over loopback, many connections at a time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    pub(crate) connections: usize,
    /// Requests on each connection.
    pub(crate) requests: usize,
    /// Payload bytes of each.
    pub(crate) request: usize,
    pub(crate) answer: usize,
}

/// The load that was exchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// Port of the server.
    pub(crate) port: u16,
    /// Payload bytes, both ways, as the client's side counted what it wrote and read.
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

impl Exchange {
    /// Requests and answers.
    pub(crate) const fn messages(&self) -> usize {
        2 * self.connections * self.requests
    }

    pub(crate) fn run(self) -> Done {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let mut pairs: Vec<_> = (0..self.connections)
            .map(|_| {
                let client = TcpStream::connect(address).expect("a connection");
                let server = listener.accept().expect("a connection").0;
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("TCP_NODELAY");
                }
                (client, server)
            })
            .collect();
        let began = Instant::now();
        let bytes = thread::scope(|scope| {
            let clients: Vec<_> = pairs
                .iter_mut()
                .map(|(client, server)| {
                    scope.spawn(move || self.answer(server));
                    scope.spawn(move || self.ask(client))
                })
                .collect();
            let counted = clients.into_iter().map(|client| client.join().expect("a client"));
            counted.sum()
        });
        Done {
            port: address.port(),
            bytes,
            took: began.elapsed(),
        }
    }

    fn ask(self, stream: &mut TcpStream) -> u64 {
        let (request, mut answer) = (vec![b'q'; self.request], vec![0; self.answer]);
        let mut bytes = 0;
        for _ in 0..self.requests {
            stream.write_all(&request).expect("sent");
            stream.read_exact(&mut answer).expect("received");
            bytes += (request.len() + answer.len()) as u64;
        }
        bytes
    }

    fn answer(self, stream: &mut TcpStream) {
        let (mut request, answer) = (vec![0; self.request], vec![b'a'; self.answer]);
        for _ in 0..self.requests {
            stream.read_exact(&mut request).expect("received");
            stream.write_all(&answer).expect("sent");
        }
    }
}
