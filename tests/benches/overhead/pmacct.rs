//! pmacctd, by the packets that libpcap hands it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::agent::Agent;

/// A folder for its config and its socket.
#[derive(Debug)]
pub(crate) struct Pmacct {
    folder: tempfile::TempDir,
}

impl Pmacct {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Differences to the defaults: buffers that hold a burst (by default it loses a fifth of
        // this load), and room for the flows.
        let config = format!(
            "daemonize: false\n\
             pcap_interface: lo\n\
             aggregate: src_host,dst_host,src_port,dst_port,proto\n\
             plugins: memory\n\
             imt_path: {}\n\
             imt_mem_pools_number: 0\n\
             plugin_pipe_size: 67108864\n\
             plugin_buffer_size: 65536\n",
            folder.path().join("table").display()
        );
        fs::write(folder.path().join("pmacctd.conf"), config).expect("a config");
        Self { folder }
    }

    fn table(&self) -> PathBuf {
        self.folder.path().join("table")
    }

    pub(crate) fn start(&self) -> Agent {
        let _ = fs::remove_file(self.table());
        let mut command = Command::new("/usr/sbin/pmacctd");
        command
            .arg("-f")
            .arg(self.folder.path().join("pmacctd.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Agent::when(command, "waiting for data on")
    }

    /// Packets and IP bytes of the connections to `port`.
    pub(crate) fn counted(&self, port: u16) -> [u64; 2] {
        let output = Command::new("pmacct")
            .args(["-s", "-O", "json", "-p"])
            .arg(self.table())
            .output()
            .expect("pmacct (make setup-bench)");
        let text = String::from_utf8_lossy(&output.stdout);
        let flows = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        flows
            .filter(|flow| ["port_src", "port_dst"].iter().any(|key| flow[key] == port))
            .fold([0, 0], |sum, flow| {
                let field = |key: &str| flow[key].as_u64().unwrap_or_default();
                [sum[0] + field("packets"), sum[1] + field("bytes")]
            })
    }
}
