//! Name servers for tests, with a separate count.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// dnsmasq at port 53 of the loopback addresses of this thread's network namespace. Its log of queries is the oracle.
pub(crate) struct Dnsmasq {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Dnsmasq {
    /// Starts it with further options; waits until it answers.
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut process = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--no-daemon",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
            ])
            .args([
                "--log-queries",
                "--log-facility=-",
                "--user=root",
                "--group=root",
                "--pid-file=",
            ])
            .args([
                "--port=53",
                "--listen-address=127.0.0.1",
                "--listen-address=::1",
                "--bind-interfaces",
            ])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("dnsmasq");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(process.stderr.take().expect("a pipe"));
        let lines = Arc::clone(&log);
        let (ready, started) = std::sync::mpsc::channel();
        let reader = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("started, version") {
                    let _ = ready.send(());
                }
                lines.lock().expect("no panic").push(line);
            }
        });
        started
            .recv_timeout(crate::daemon::WAIT_TIMEOUT)
            .unwrap_or_else(|_| panic!("dnsmasq: {:?}", log.lock().expect("no panic")));
        Self {
            process,
            log,
            reader: Some(reader),
        }
    }

    /// Ends it; returns the number of queries by type that it has logged.
    pub(crate) fn stop(mut self) -> BTreeMap<String, u64> {
        self.end();
        let mut queries = BTreeMap::new();
        for line in self.log.lock().expect("no panic").iter() {
            if let Some((_, rest)) = line.split_once("query[")
                && let Some((qtype, _)) = rest.split_once(']')
            {
                *queries.entry(qtype.to_owned()).or_default() += 1;
            }
        }
        queries
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reaction of a [`Responder`] to queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// Response code.
    pub(crate) rcode: u8,
    /// Whether answers have the TC bit.
    pub(crate) truncated: bool,
    /// Wait before the answer.
    pub(crate) delay: Duration,
    /// Queries that are not answered, from the first on.
    pub(crate) ignored: u64,
}

/// A name server that answers without data.
pub(crate) struct Responder {
    stop: Arc<AtomicBool>,
    /// Queries received.
    seen: Arc<AtomicU64>,
    /// Nanoseconds from each query to its answer.
    busy: Arc<AtomicU64>,
    worker: Option<JoinHandle<()>>,
}

impl Responder {
    /// Listens on `address` in this thread's network namespace.
    pub(crate) fn start(address: &str, behaviour: Behaviour) -> Self {
        let socket = UdpSocket::bind(address).expect("a free port");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a timeout");
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&seen));
        let busy = Arc::new(AtomicU64::new(0));
        let took = Arc::clone(&busy);
        let worker = thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let received = Instant::now();
                if count.fetch_add(1, Ordering::Relaxed) < behaviour.ignored {
                    continue;
                }
                thread::sleep(behaviour.delay);
                buffer[2] |= 0x80 | if behaviour.truncated { 0x02 } else { 0 };
                buffer[3] = 0x80 | behaviour.rcode;
                let nanos = u64::try_from(received.elapsed().as_nanos()).expect("a short time");
                took.fetch_add(nanos, Ordering::Relaxed);
                let _ = socket.send_to(&buffer[..length], client);
            }
        });
        Self {
            stop,
            seen,
            busy,
            worker: Some(worker),
        }
    }

    /// Time from each query to its answer, up to now, as the server measured it.
    pub(crate) fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
    }

    /// Ends it; returns the number of queries that it received.
    pub(crate) fn stop(mut self) -> u64 {
        self.end();
        self.seen.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.end();
    }
}
