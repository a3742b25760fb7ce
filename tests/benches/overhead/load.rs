//! The load: redis-benchmark against redis, over loopback.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Requests of one run.
pub(crate) const REQUESTS: u32 = 300_000;

/// A redis server without persistence. Stopped when dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--maxclients", "5000"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server (make setup-bench)");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }

    /// GETs of 512 bytes; returns how many a second.
    pub(crate) fn benchmark(&self, connections: u32, requests: u32) -> f64 {
        let output = Command::new("redis-benchmark")
            .args(["-p", &self.port.to_string(), "-t", "get", "-d", "512", "--csv"])
            .args(["-c", &connections.to_string(), "-n", &requests.to_string()])
            .output()
            .expect("redis-benchmark");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text
            .lines()
            .find(|line| line.starts_with("\"GET\""))
            .unwrap_or_else(|| panic!("{text}"));
        let field = line.split(',').nth(1).expect("requests a second");
        field.trim_matches('"').parse().expect("a number")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
