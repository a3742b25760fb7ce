//! End-to-end tests: the real binary, on real traffic, against counts that are not ours.
//!
//! One binary. Each test starts a separate daemon on separate ports, and stops it by its pid.
//!
//! | module | subject |
//! |---|---|
//! | `exact_bytes` | sums equal the application's own count, IPv4, IPv6, another network namespace, adopted |
//! | `edges` | connections that few programs make: Fast Open, resets, no port, no storage, threads, a full table |
//! | `depth` | failed connects, resets, retransmits, round-trip times; processes |
//! | `drops` | dropped packets by reason and flow, against nft, tc and `/proc/net/snmp` |
//! | `dns` | DNS transactions, against the log of dnsmasq and the count of name servers of the tests; names of peers |
//! | `listening` | queues and drops of listening sockets, against `ListenDrops` and `ss` |
//! | `owners` | containers by their cgroups, names of processes as text |
//! | `kubernetes` | the cluster's id, and each watch of its API in `/status` |
//! | `labels` | egress and ingress, port labels, direction, `/metrics` with no config |
//! | `connecting` | connects that wait for an answer, against `ss` |
//! | `connections` | connections of exporters that fail in every way: nothing is given up |
//! | `config_messages` | configs as users of other programs write them, and what is said of them |
//! | `command_line` | arguments, config errors, privileges, exit codes |
//! | `links` | bytes where this machine drops what its own TCP sends |
//! | `live` | the status page in a browser, by its contents, by keyboard and by axe; `top` in a terminal; `/flows`, `/map`, `/timeline` |
//! | `machine` | the lock of tests that must be alone on the machine |
//! | `browser` | headless Chromium, over the `DevTools` protocol |
//! | `memory` | the memory limiter after a burst of flows, and of requests |
//! | `modes` | events, sockets, sock_diag; bounds that are hit; churn; kill -9 |
//! | `handover` | reloads that change the receiver, under load |
//! | `open_connections` | the gauge of open connections after losses and reloads |
//! | `sock_diag` | bytes by sequence on links that drop, short connections, roles without listeners, redirects |
//! | `processes` | which process an accepted connection belongs to |
//! | `peers` | a real Prometheus, promtool, a real OTLP collector, `DuckDB` |
//! | `otelcol` | the OpenTelemetry Collector: what it accepts, also after it was killed, slow, full or unreachable |
//! | `icmp` | errors of UDP sockets, against those that the sockets return; messages by type |
//! | `ipfix` | flows over IPFIX, in nfcapd, nfacctd and libfixbuf: lost templates, restarts, TLS |
//! | `ipfix_udp` | UDP flows and dropped packets over IPFIX, in nfcapd and libfixbuf |
//! | `identity` | the node of series; increases over short-lived peers; losses beside the flows, in real stores |
//! | `name_files` | files of name resolution that are replaced while the daemon is in its sandbox |
//! | `sandbox` | the sandbox of a running daemon, modes of its files, names that its listeners answer to |
//! | `push` | endpoints, proxies, sockets, certificates and messages of exporters that push |
//! | `extensions` | extensions, and the daemon's own listeners, over reloads |
//! | `fast_open` | exchanges of clients whose request leaves with the SYN, against the applications' own clocks |
//! | `findings` | findings in the Collector, the API, the command and of a recording |
//! | `filter` | what the processor `filter` drops and keeps, and the gauge of open connections |
//! | `inspect` | protocols and names of real programs at both ends, exchanges by the applications' counts and clocks, a budget |
//! | `inspect_programs` | the same with gRPC by grpcio and with Chromium's post-quantum TLS |
//! | `translation` | the pod behind a service address and the client behind a masquerade, against conntrack and the applications; hops of a sidecar |
//! | `udp_flow_logs` | log records of UDP flows, against the application's own bytes and datagrams |
//! | `udp` | bytes of UDP by peer, a full table, drops, reloads |
//! | `udp_delivery` | raw sockets, filters of sockets, and error queues beside UDP |
//! | `udp_programs` | iperf3 and HTTP/3 by aioquic, against their own counts |
//! | `generator` | synthetic flows: series and sums by the arithmetic of the config |
//! | `network_policies` | verdicts of Kubernetes NetworkPolicies on recordings and live, and suggested policies |
//! | `rdma` | counters, links and queue pairs of RDMA devices, on recorded trees of sysfs |
//! | `recordings` | record, replay, explain, classify; the debug endpoints |
//! | `replacements` | exporters that a reload replaces while their peer is away |
//! | `references` | the generated pages of `docs/` |
//! | `public_api` | the public items of the crates that components are built from, against `tests/api` |
//! | `structure` | no cycle between crates, nor between the modules of one |
//! | `default_config` | `config/default.yaml` and the examples against the built-in defaults |
//! | `stopping` | the end, and full listeners, whatever peers do |
//! | `shielded` | events that this machine hides from all eBPF programs |

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "clippy allows these in functions marked #[test] only; here, all is test"
)]

mod asking;
mod bad_configs;
mod browser;
mod clickhouse;
mod command_line;
mod config_messages;
mod connecting;
mod connections;
mod daemon;
mod default_config;
mod depth;
mod dns;
mod dns_server;
mod drops;
mod edges;
mod exact_bytes;
mod exposition;
mod extensions;
mod fast_open;
mod faults;
mod filter;
mod findings;
mod flow_logs;
mod generated;
mod generator;
mod geoip;
mod handover;
mod history;
mod icmp;
mod identity;
mod inspect;
mod inspect_programs;
mod ipfix;
mod ipfix_udp;
mod kernel_objects;
mod kubernetes;
mod labels;
mod limits;
mod links;
mod listening;
mod live;
mod machine;
mod memory;
mod modes;
mod name_files;
mod native_histograms;
mod netns;
mod network_policies;
mod object_stores;
mod open_connections;
mod operation;
mod otelcol;
mod owners;
mod peers;
mod policy_files;
mod processes;
mod public_api;
mod push;
mod queries;
mod queries_of_datagrams;
mod queries_of_services;
mod rdma;
mod recordings;
mod references;
mod reloads;
mod replacements;
mod require;
mod sandbox;
mod scans;
mod schema;
mod shielded;
mod shipped_configs;
mod short_translations;
mod sock_diag;
mod stopping;
mod stores;
mod structure;
mod traffic;
mod translation;
mod udp;
mod udp_delivery;
mod udp_flow_logs;
mod udp_programs;
